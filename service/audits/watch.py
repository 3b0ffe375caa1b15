"""Keeps the metric of the newest audit's agreement up to date while the gateway runs."""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy.exc import SQLAlchemyError

from service.audits.agreement import agreement, items_of
from service.audits.judging import Audits
from service.telemetry.failure import failure
from service.telemetry.metrics import Metrics

log = logging.getLogger("winnow.monitoring")


async def watch_audits(audits: Audits, metrics: Metrics, seconds: float) -> None:
    """Look every so many seconds whether there are new labels, until cancelled."""
    seen: tuple[str, int] | None = None
    while True:
        try:
            newest = next((row for row in await audits.listed() if row["labels"]), None)
            if newest is not None and seen != (seen := (newest["id"], newest["labels"])):
                share = agreement(items_of(await audits.judged(newest["id"])))
                # One audit at a time: an alert is about the newest.
                metrics.audit.agreement.clear()
                metrics.audit.labels.clear()
                metrics.audit.labels.labels(newest["id"]).set(newest["labels"])
                if share.value is not None:
                    metrics.audit.agreement.labels(newest["id"]).set(share.value)
        except (SQLAlchemyError, OSError) as error:
            log.error("the audits could not be read: %s", failure(error))
        await asyncio.sleep(seconds)
