"""The outbox: events written in the transaction that caused them; `service.reviews.webhook` delivers them."""

from __future__ import annotations

import secrets
import time

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.store.rows import Row
from service.store.tables import deliveries


async def add_event(connection: AsyncConnection, kind: str, review: Row) -> None:
    """Have an event sent if this transaction ends well. It names the ticket and holds no text of anybody."""
    shown = {name: review.get(name) for name in ("id", "response_id", "route", "reason", "status", "verdict")}
    now = int(time.time() * 1000)
    body = {"id": f"event-{secrets.token_hex(12)}", "type": kind, "at_ms": now, "review": shown}
    row = {"id": body["id"], "at_ms": now, "body": body, "tries": 0, "next_at_ms": now}
    await connection.execute(insert(deliveries).values(row))
