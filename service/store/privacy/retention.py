"""What is forgotten: everything of a user at once, everything after a time.

Every table with what somebody wrote, or a user's name, is in `FORGOTTEN`; the others are in `WITHOUT_USERS`, with why.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable

from sqlalchemy import ColumnElement, and_, delete, insert, or_, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.store.privacy.vault import Vault
from service.store.rows import stored_user, user_digest
from service.store.tables import deliveries, feedback, forgotten, responses
from service.telemetry.failure import failure

# By a row of `responses` and its foreign keys, or by the tenant and the user in the row itself.
FORGOTTEN = {"responses", "candidates", "reviews", "held_messages", "audit_items", "audit_labels", "feedback"}
WITHOUT_USERS = {
    "audits": "times, seeds and counts of a sample",
    "deliveries": "names of tickets and answers; deleted a week after they were delivered or given up",
    "actions": "what operators did to which ticket, without its texts; never changed, so it outlives the ticket",
    "forgotten": "digests of users whose answers were deleted; deleted after a week",
}
_DAY_MS, _BETWEEN_SECONDS = 86_400_000, 3_600.0
_SETTLED_DAYS = 7
# How long after a deletion what was under way at that time may still be written.
_UNDER_WAY_MS = 10 * 60_000

log = logging.getLogger("winnow.store")


async def forget_user(engine: AsyncEngine, tenant: str, user: str) -> int:
    """Delete the answers to a tenant's user, and all that hangs on them; how many there were. Each gateway clears its
    memory within seconds (`follow_forgotten`)."""
    name, now = stored_user(user), _now()
    mine = and_(responses.c.tenant == tenant, responses.c.user == name)
    async with engine.begin() as connection:
        count = await _forget(connection, mine)
        # Greedy answers have no row to hang on.
        await connection.execute(delete(feedback).where(feedback.c.tenant == tenant, feedback.c.user == name))
        row = {"id": f"forgotten-{secrets.token_hex(12)}", "at_ms": now, "tenant": tenant}
        await connection.execute(insert(forgotten).values(row | {"user_digest": user_digest(user)}))
    await _empty_log(engine)
    return count


async def forget_older(engine: AsyncEngine, days: float) -> int:
    """Delete answers that are older, feedback too; how many answers there were."""
    before = _now() - days * _DAY_MS
    async with engine.begin() as connection:
        count = await _forget(connection, responses.c.at_ms < before)
        await connection.execute(delete(feedback).where(feedback.c.at_ms < before))
    await _empty_log(engine)
    return count


async def prune_settled(engine: AsyncEngine, vault: Vault) -> None:
    """Delete what has served its purpose: delivered messages and events, and digests of users."""
    before = _now() - _SETTLED_DAYS * _DAY_MS
    async with engine.begin() as connection:
        await vault.prune(connection)
        settled = and_(deliveries.c.next_at_ms.is_(None), deliveries.c.at_ms < before)
        await connection.execute(delete(deliveries).where(settled))
        await connection.execute(delete(forgotten).where(forgotten.c.at_ms < before))


async def _forget(connection: AsyncConnection, which: ColumnElement[bool]) -> int:
    """Answers with all that hangs on them; all but feedback goes by foreign keys."""
    of_them = feedback.c.response_id.in_(select(responses.c.id).where(which))
    await connection.execute(delete(feedback).where(of_them))
    return int((await connection.execute(delete(responses).where(which))).rowcount)


async def _empty_log(engine: AsyncEngine) -> None:
    """SQLite's write-ahead log still has what was deleted; while others read, it is emptied the next time."""
    if engine.dialect.name == "sqlite":
        async with engine.connect() as connection:
            await connection.execute(text("pragma wal_checkpoint(truncate)"))


async def forget_on_and_on(engine: AsyncEngine, days: float | None, vault: Vault) -> None:
    """Every hour, until cancelled; a store that fails now is tried again the next time."""
    while True:
        try:
            await prune_settled(engine, vault)
            if days is not None and (count := await forget_older(engine, days)):
                log.info("%d answers older than %g days were deleted", count, days)
        except (SQLAlchemyError, OSError) as error:
            log.error("old answers could not be deleted: %s", failure(error))
        await asyncio.sleep(_BETWEEN_SECONDS)


async def follow_forgotten(engine: AsyncEngine, forget: Callable[[str, str], object], seconds: float = 5.0) -> None:
    """Have this process forget, by `forget(tenant, digest)`, whoever was forgotten through any process; and delete what
    was under way then and written since. Until cancelled."""
    while True:
        try:
            async with engine.begin() as connection:
                query = select(forgotten).where(forgotten.c.at_ms > _now() - _UNDER_WAY_MS)
                for row in (await connection.execute(query)).mappings().all():
                    forget(row["tenant"], row["user_digest"])
                    await _sweep(connection, row["tenant"], row["user_digest"], row["at_ms"])
        except (SQLAlchemyError, OSError) as error:
            log.error("users that were forgotten could not be read: %s", failure(error))
        await asyncio.sleep(seconds)


async def _sweep(connection: AsyncConnection, tenant: str, digest: str, at_ms: int) -> None:
    in_time = responses.c.at_ms.between(at_ms - _UNDER_WAY_MS, at_ms)
    query = select(responses.c.id, responses.c.user).where(responses.c.tenant == tenant, in_time)
    rows = (await connection.execute(query.where(responses.c.user.is_not(None)))).all()
    ids = [name for name, user in rows if user_digest(user) == digest or user.endswith(f"#{digest}")]
    if ids:
        await _forget(connection, or_(*(responses.c.id == name for name in ids)))


def _now() -> int:
    return int(time.time() * 1000)
