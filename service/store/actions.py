"""The log of what operators did: written in the transaction that did it, read in pages, never changed."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.store.pages import Page
from service.store.rows import Row
from service.store.scope import Tenants, seen_by
from service.store.tables import actions


async def log_action(
    connection: AsyncConnection, tenant: str | None, actor: str, action: str, subject: str, details: Row
) -> None:
    """Write what `actor` did to something of `tenant`."""
    row: dict[str, Any] = {"at_ms": int(time.time() * 1000), "actor": actor, "action": action, "subject": subject}
    await connection.execute(insert(actions).values(row | {"details": {"tenant": tenant, **details}}))


async def read_actions(connection: AsyncConnection, tenants: Tenants, before: int | None, limit: int) -> Page:
    """The newest first, on from the id `before`. Rows of earlier versions name no tenant: who sees all, sees them."""
    query = select(actions).where(seen_by(actions.c.details["tenant"].as_string(), tenants))
    if before is not None:
        query = query.where(actions.c.id < before)
    rows = (await connection.execute(query.order_by(actions.c.id.desc()).limit(limit + 1))).mappings()
    listed = [dict(row) for row in rows]
    return Page(listed[:limit], len(listed) > limit)
