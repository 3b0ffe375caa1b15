"""The newest audit's agreement as a metric, for as long as the gateway runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from service.metrics import Metrics
from service.monitoring.agreement import agreement, items_of
from service.store.audits import Audits

log = logging.getLogger("winnow.monitoring")


@asynccontextmanager
async def watching_audits(engine: AsyncEngine | None, metrics: Metrics, seconds: float) -> AsyncIterator[None]:
    """While the block runs, look every so many seconds whether there are new labels."""
    if engine is None:
        yield
        return
    task = asyncio.create_task(_watch(Audits(engine), metrics, seconds))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _watch(audits: Audits, metrics: Metrics, seconds: float) -> None:
    seen: tuple[str, int] | None = None
    while True:
        try:
            newest = next((row for row in await audits.listed() if row["labels"]), None)
            if newest is not None and seen != (seen := (newest["id"], newest["labels"])):
                share = agreement(items_of(await audits.judged(newest["id"])))
                # One audit at a time: an alert is about the newest.
                metrics.audit_agreement.clear()
                metrics.audit_labels.clear()
                metrics.audit_labels.labels(newest["id"]).set(newest["labels"])
                if share.value is not None:
                    metrics.audit_agreement.labels(newest["id"]).set(share.value)
        except (SQLAlchemyError, OSError) as error:
            log.error("the audits could not be read: %s", error)
        await asyncio.sleep(seconds)
