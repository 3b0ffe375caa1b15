"""Rate limits: counted in this process, or by the library `limits` in Redis or Valkey, shared by several gateways.

If the shared store does not answer, each gateway counts for itself until it does: a limit then holds for each gateway
instead of for all of them, and no request fails for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal, cast

from limits import RateLimitItemPerSecond
from limits.aio.storage import SlidingWindowCounterSupport
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string

from service.admission.counters import Counters
from service.admission.window import Window
from service.errors import SetupError
from service.telemetry.metrics import Metrics

Kind = Literal["requests", "tokens"]

# How long a shared store may take, and how long one that failed is left alone.
_ANSWER_SECONDS, _LEFT_ALONE_SECONDS = 0.25, 5.0
_FRESH_SECONDS = 1.0
# A charge is never refused: what was sampled was sampled.
_NO_LIMIT = 2**53

log = logging.getLogger("winnow.admission")


class Rates:
    """What each tenant has taken within the last minute."""

    def __init__(
        self, metrics: Metrics, url: str | None = None, seconds: int = 60, answer_seconds: float = _ANSWER_SECONDS
    ) -> None:
        """Raises SetupError for a `url` that is no Redis or Valkey address."""
        self._metrics = metrics.admission
        self._seconds = seconds
        self._own = Counters(seconds)
        self._shared = None if url is None else _shared_storage(url, answer_seconds)
        self._away_until: float | None = None
        # One entry a tenant, and tenants are those of the keys file.
        self._seen: dict[tuple[Kind, str], tuple[float, Window]] = {}
        self._charges: set[asyncio.Task[None]] = set()

    async def take(self, kind: Kind, tenant: str, limit: int, cost: int) -> tuple[bool, Window]:
        """Take `cost` if that much is left, in one step; and how the window stands afterwards."""
        if (storage := self._present) is not None:
            key = self._shared_key(kind, tenant, limit)
            with self._left_alone_if_it_fails():
                done = bool(await storage.acquire_sliding_window_entry(key, limit, self._seconds, cost))
                return done, await self._window(storage, kind, tenant, limit)
        return self._own.take(_own_key(kind, tenant), limit, cost)

    async def look(self, kind: Kind, tenant: str, limit: int) -> Window:
        """How the window stands."""
        if (storage := self._present) is not None:
            with self._left_alone_if_it_fails():
                return await self._window(storage, kind, tenant, limit)
        return self._own.window(_own_key(kind, tenant), limit)

    async def glance(self, kind: Kind, tenant: str, limit: int) -> Window:
        """How the window stood less than a second ago: for headers, which say no more than about how much is left."""
        known = self._seen.get((kind, tenant))
        if known is None or known[1].limit != limit or time.monotonic() - known[0] > _FRESH_SECONDS:
            return await self.look(kind, tenant, limit)
        return known[1]

    def charge(self, kind: Kind, tenant: str, limit: int, amount: int) -> None:
        """Count `amount` more, or less if it is negative, whatever is left.

        In the shared store it is counted behind the request, which may be cancelled at this moment: no answer waits.
        """
        if self._present is None:
            self._own.add(_own_key(kind, tenant), amount)
            return
        task = asyncio.create_task(self._charge_shared(kind, tenant, limit, amount))
        self._charges.add(task)
        task.add_done_callback(self._charges.discard)

    async def charged(self) -> None:
        """Wait until everything that was charged is counted."""
        await asyncio.gather(*self._charges)

    async def close(self) -> None:
        """Count what was charged, and close the connections to the shared store."""
        await self.charged()
        if self._shared is not None:
            await cast(Any, self._shared).bridge.get_connection().aclose()

    async def _charge_shared(self, kind: Kind, tenant: str, limit: int, amount: int) -> None:
        if (storage := self._present) is not None:
            with self._left_alone_if_it_fails():
                key = self._shared_key(kind, tenant, limit)
                await storage.acquire_sliding_window_entry(key, _NO_LIMIT, self._seconds, amount)
                if (known := self._seen.get((kind, tenant))) is not None:
                    at, window = known
                    self._seen[kind, tenant] = (at, window._replace(current=max(0, window.current + amount)))
                return
        self._own.add(_own_key(kind, tenant), amount)

    @property
    def _present(self) -> SlidingWindowCounterSupport | None:
        """The shared store, unless there is none or it is left alone for a while."""
        if self._away_until is not None and time.monotonic() < self._away_until:
            return None
        return self._shared

    def _shared_key(self, kind: Kind, tenant: str, limit: int) -> str:
        return RateLimitItemPerSecond(limit, self._seconds, namespace="winnow").key_for(kind, tenant)

    async def _window(self, storage: SlidingWindowCounterSupport, kind: Kind, tenant: str, limit: int) -> Window:
        """The shared store's, remembered for a glance."""
        key = self._shared_key(kind, tenant, limit)
        window = Window(limit, self._seconds, *await storage.get_sliding_window(key, self._seconds))
        if self._away_until is not None:
            log.warning("the shared limits answer again")
            self._away_until = None
        self._seen[kind, tenant] = (time.monotonic(), window)
        return window

    @contextmanager
    def _left_alone_if_it_fails(self) -> Iterator[None]:
        """A failure of the shared store ends the block, and nothing else: what follows counts in this process."""
        try:
            yield
        except (StorageError, OSError) as error:
            self._metrics.shared_failures.inc()
            if self._away_until is None:
                log.error("the shared limits do not answer (%s): each gateway counts for itself", _cause(error))
            self._away_until = time.monotonic() + _LEFT_ALONE_SECONDS


def _own_key(kind: Kind, tenant: str) -> str:
    return f"{kind}/{tenant}"


def _shared_storage(url: str, answer_seconds: float) -> SlidingWindowCounterSupport:
    scheme, _, rest = url.partition("://")
    # Valkey speaks Redis's protocol, and one client is enough.
    scheme = scheme.replace("valkeys", "rediss").replace("valkey", "redis")
    if scheme not in ("redis", "rediss", "redis+unix") or not rest:
        raise SetupError("limits_url: write an address such as redis://HOST:6379/0, rediss://... or valkey://...")
    if find_spec("redis") is None:
        raise SetupError("limits_url needs the library `redis`; install it with: pip install 'winnow-rerank[redis]'")
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    options: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "implementation": "redispy", "wrap_exceptions": True}
    options |= {"socket_timeout": answer_seconds, "socket_connect_timeout": answer_seconds}
    try:
        return cast(SlidingWindowCounterSupport, storage_from_string(f"async+{scheme}://{rest}", **options))
    except (ConfigurationError, ValueError) as error:
        # The address may hold a password.
        raise SetupError(f"limits_url: {type(error).__name__} while reading the address; check it") from error


def _cause(error: StorageError | OSError) -> str:
    return type(getattr(error, "storage_error", error)).__name__
