"""Who may start: a bound on the requests at work, and a rate for each tenant."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

from service.errors import Overloaded, RateLimited


@dataclass
class _Bucket:
    tokens: float
    at: float


class Admission:
    """A token bucket for each tenant (`per_minute` requests, as burst too) and at most `max_inflight` at work."""

    def __init__(self, max_inflight: int, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.inflight = 0
        self._max_inflight = max_inflight
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def admit(self, tenant: str) -> dict[str, str]:
        """Count one request of `tenant`; returns its x-ratelimit headers or raises RateLimited."""
        bucket = self._refill(tenant)
        if bucket.tokens < 1:
            wait = (1 - bucket.tokens) * 60 / self._per_minute
            raise RateLimited(
                f"{self._per_minute} requests a minute are allowed; try again in {ceil(wait)} s",
                retry_after=wait,
            )
        bucket.tokens -= 1
        refill = (self._per_minute - bucket.tokens) * 60 / self._per_minute
        return {
            "x-ratelimit-limit-requests": str(self._per_minute),
            "x-ratelimit-remaining-requests": str(int(bucket.tokens)),
            "x-ratelimit-reset-requests": f"{refill:.3f}s",
        }

    def check(self) -> None:
        """Overloaded at once when all places are taken, so that no queue grows."""
        if self.inflight >= self._max_inflight:
            raise Overloaded(
                f"{self._max_inflight} requests are at work, which is all this gateway takes", retry_after=1
            )

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Count one request as being at work."""
        self.inflight += 1
        try:
            yield
        finally:
            self.inflight -= 1

    def _refill(self, tenant: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault(tenant, _Bucket(self._per_minute, now))
        bucket.tokens = min(self._per_minute, bucket.tokens + (now - bucket.at) * self._per_minute / 60)
        bucket.at = now
        return bucket
