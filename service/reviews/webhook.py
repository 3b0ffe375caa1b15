"""The webhook of reviews: events of the store, posted with exponential backoff until the receiver accepts them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from service.store.rows import Row
from service.store.tables import deliveries
from service.telemetry.failure import failure
from service.telemetry.metrics import Metrics

_AT_ONCE = 20

log = logging.getLogger("winnow.store")


def signature(secret: str, at: int, payload: bytes) -> str:
    """What `x-winnow-signature` says of a payload that is sent at `at` (seconds since 1970): HMAC-SHA256 of both."""
    mac = hmac.new(secret.encode(), f"{at}.".encode() + payload, hashlib.sha256)
    return f"t={at},v1={mac.hexdigest()}"


@dataclass(frozen=True)
class WebhookPace:
    """How often the store is looked at, how long a post may take, and how an event is tried again: after twice as long
    each time, up to `longest_ms`, and no more after `most_tries`, which is a day or so."""

    look_seconds: float = 1.0
    post_seconds: float = 10.0
    longest_ms: int = 3_600_000
    most_tries: int = 34


class Webhook:
    """Sends what is due. Several gateways may share a store: each event is held by one of them while it is posted."""

    def __init__(
        self, engine: AsyncEngine, url: str, secret: str, metrics: Metrics, pace: WebhookPace | None = None
    ) -> None:
        self._engine, self._url, self._secret, self._metrics = engine, url, secret, metrics
        self._pace = pace or WebhookPace()

    async def run(self) -> None:
        """On and on, until cancelled."""
        timeout = aiohttp.ClientTimeout(total=self._pace.post_seconds)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                try:
                    due = await self._due()
                    await asyncio.gather(*(self._send(session, row) for row in due))
                except (SQLAlchemyError, OSError) as error:
                    log.error("events could not be read from the store: %s", failure(error))
                    due = []
                if len(due) < _AT_ONCE:
                    await asyncio.sleep(self._pace.look_seconds)

    async def _due(self) -> list[Row]:
        """Events whose time has come, held for as long as posting them can take."""
        now, held = _now(), []
        query = select(deliveries).where(deliveries.c.next_at_ms <= now).order_by(deliveries.c.next_at_ms)
        async with self._engine.begin() as connection:
            for row in (await connection.execute(query.limit(_AT_ONCE))).mappings().all():
                mine = (deliveries.c.id == row["id"], deliveries.c.next_at_ms == row["next_at_ms"])
                until = now + int(3_000 * self._pace.post_seconds)
                if (await connection.execute(update(deliveries).where(*mine).values(next_at_ms=until))).rowcount:
                    held.append(dict(row))
        return held

    async def _send(self, session: aiohttp.ClientSession, row: Row) -> None:
        payload, at = orjson.dumps(row["body"]), int(time.time())
        headers = {"content-type": "application/json", "x-winnow-event": row["id"]}
        headers["x-winnow-signature"] = signature(self._secret, at, payload)
        error = None
        try:
            async with session.post(self._url, data=payload, headers=headers, allow_redirects=False) as response:
                if not 200 <= response.status < 300:
                    error = f"HTTP {response.status}"
        except (aiohttp.ClientError, OSError) as failed:
            error = failure(failed)
        await self._settle(row, error)

    async def _settle(self, row: Row, error: str | None) -> None:
        tries = row["tries"] + 1
        values: dict[str, Any] = {"tries": tries, "last_error": error, "next_at_ms": None}
        if error is not None:
            self._metrics.review.webhook_failures.inc()
            if tries < self._pace.most_tries:
                values["next_at_ms"] = _now() + min(self._pace.longest_ms, 1_000 * 2**tries)
            else:
                self._metrics.review.webhook_given_up.inc()
            log.warning("event %s was not taken (%s), try %d of %d", row["id"], error, tries, self._pace.most_tries)
        async with self._engine.begin() as connection:
            await connection.execute(update(deliveries).where(deliveries.c.id == row["id"]).values(values))


def _now() -> int:
    return int(time.time() * 1000)
