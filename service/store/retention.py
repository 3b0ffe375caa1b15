"""Deletes stored answers: all beyond the retention period, or all of one user."""

from __future__ import annotations

import asyncio
import logging
import time

from sqlalchemy import ColumnElement, and_, delete, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from service.failure import failure
from service.store.tables import feedback, responses

_DAY_MS, _BETWEEN_SECONDS = 86_400_000, 3_600.0

log = logging.getLogger("winnow.store")


async def forget_user(engine: AsyncEngine, tenant: str, user: str) -> int:
    """Delete the answers to a tenant's user, with their candidates; how many there were."""
    return await _forget(engine, and_(responses.c.tenant == tenant, responses.c.user == user))


async def forget_older(engine: AsyncEngine, days: float) -> int:
    """Delete answers that are older; how many there were."""
    before = time.time() * 1000 - days * _DAY_MS
    return await _forget(engine, responses.c.at_ms < before)


async def _forget(engine: AsyncEngine, which: ColumnElement[bool]) -> int:
    """Answers with all that hangs on them; candidates and reviews go by their foreign keys."""
    of_them = feedback.c.response_id.in_(select(responses.c.id).where(which))
    async with engine.begin() as connection:
        await connection.execute(delete(feedback).where(of_them))
        return int((await connection.execute(delete(responses).where(which))).rowcount)


async def forget_on_and_on(engine: AsyncEngine, days: float) -> None:
    """Every hour, until cancelled; a store that fails now is tried again the next time."""
    while True:
        try:
            if gone := await forget_older(engine, days):
                log.info("%d answers older than %g days were deleted", gone, days)
        except (SQLAlchemyError, OSError) as error:
            log.error("old answers could not be deleted: %s", failure(error))
        await asyncio.sleep(_BETWEEN_SECONDS)
