"""Writes history in the background: a bounded queue, and one task that writes in batches. No request waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from sqlalchemy import insert, text
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from service.background import Background
from service.errors import StoreUnavailable
from service.settings import StoreSettings
from service.store.database import open_database
from service.store.outbox import add_event
from service.store.privacy.vault import Vault, vault_of
from service.store.redaction import Redactor, redact, redactor_of
from service.store.rows import Record
from service.store.tables import candidates, held_messages, responses, reviews
from service.telemetry.failure import failure, frames
from service.telemetry.metrics import Metrics

# What a crash may lose, and how long a store that does not answer is left alone.
_FLUSH_SECONDS, _RETRY_SECONDS = 0.5, 2.0
# More than a store takes that works, less than a person waits.
_KEEP_SECONDS = 5.0
_ANSWER_SECONDS = 2.0
_BATCH = 500

log = logging.getLogger("winnow.store")


class History:
    """`run` is a loop of the background. `add` never blocks; what finds the queue full is dropped and counted."""

    def __init__(
        self,
        engine: AsyncEngine,
        metrics: Metrics,
        limit: int,
        vault: Vault | None = None,
        redactor: Redactor = redact,
        *,
        sends_events: bool = False,
        retry_seconds: float = _RETRY_SECONDS,
    ) -> None:
        self.engine = engine
        self._vault = vault or Vault()
        self._redactor = redactor
        self._metrics = metrics
        self._sends_events = sends_events
        self._retry_seconds = retry_seconds
        self._queue: asyncio.Queue[Record] = asyncio.Queue(limit)
        # Taken from the queue and not written yet: a writer that is started again goes on with it.
        self._batch: list[Record] = []
        self._writing = False

    def add(self, record: Record) -> None:
        """Write it soon."""
        try:
            self._queue.put_nowait(record)
        except asyncio.QueueFull:
            self._metrics.history.dropped.inc()
        self._metrics.history.waiting.set(self._queue.qsize())

    async def keep(self, record: Record) -> str:
        """Write it with its ticket now, and return the ticket's id: durable by then. Raises StoreUnavailable where it
        cannot be."""
        assert record.review is not None
        clean = await asyncio.to_thread(record.redacted, self._redactor)
        try:
            async with asyncio.timeout(_KEEP_SECONDS):
                await self._insert([clean])
        except (SQLAlchemyError, OSError) as error:
            self._metrics.history.failures.inc()
            log.error("the review of %s could not be kept: %s", record.response["id"], failure(error))
            raise StoreUnavailable(
                "this answer needs a person, and the review cannot be kept now; ask again later", retry_after=5
            ) from error
        return str(record.review["id"])

    @property
    def writing(self) -> bool:
        """Whether what is added gets written."""
        return self._writing

    async def answers(self) -> bool:
        """Whether the store answers."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS), self.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except (SQLAlchemyError, OSError):
            return False
        return True

    async def flush(self, seconds: float = 10.0) -> None:
        """Wait until what waits is written, for so long at most; the rest is dropped and counted."""
        try:
            await asyncio.wait_for(self._queue.join(), seconds)
        except TimeoutError:
            self._metrics.history.dropped.inc(self._queue.qsize() + len(self._batch))

    async def run(self) -> None:
        """Write what has gathered, on and on, until cancelled."""
        self._writing = True
        try:
            while True:
                await self._write_next()
        finally:
            self._writing = False

    async def _write_next(self) -> None:
        if not self._batch:
            self._batch.append(await self._queue.get())
            await asyncio.sleep(_FLUSH_SECONDS)
        while len(self._batch) < _BATCH and not self._queue.empty():
            self._batch.append(self._queue.get_nowait())
        await self._write(self._batch)
        for _ in self._batch:
            self._queue.task_done()
        self._batch = []
        self._metrics.history.waiting.set(self._queue.qsize())

    async def _write(self, batch: list[Record]) -> None:
        """Until it is written: meanwhile the queue fills, and what does not fit is counted."""
        clean = await asyncio.to_thread(self._redacted, batch)
        while True:
            try:
                await self._insert(clean)
                return
            except (OperationalError, InterfaceError, OSError) as error:
                self._metrics.history.failures.inc()
                log.error(
                    "the history could not be written, tried again in %g s: %s", self._retry_seconds, failure(error)
                )
                await asyncio.sleep(self._retry_seconds)
            except SQLAlchemyError:
                # One of them does not fit, however often it is tried; the others must not suffer for it.
                await self._write_each(clean)
                return

    def _redacted(self, batch: list[Record]) -> list[Record]:
        """Each for itself: one that cannot be redacted is not written, and takes no other with it."""
        clean = []
        for record in batch:
            try:
                clean.append(record.redacted(self._redactor))
            except Exception as error:
                self._metrics.history.dropped.inc()
                log.error("the record of %s could not be redacted: %s", record.response["id"], frames(error))
        return clean

    async def _write_each(self, clean: list[Record]) -> None:
        for record in clean:
            try:
                await self._insert([record])
            except SQLAlchemyError as error:
                self._metrics.history.dropped.inc()
                log.error("the record of %s could not be written: %s", record.response["id"], failure(error))

    async def _insert(self, records: list[Record]) -> None:
        async with self.engine.begin() as connection:
            if not records:
                return
            await connection.execute(insert(responses), [record.response for record in records])
            if rows := [row for record in records for row in record.candidates]:
                await connection.execute(insert(candidates), rows)
            if held := [row | {"message": self._vault.seal(row["message"])} for each in records for row in each.held]:
                await connection.execute(insert(held_messages), held)
            if opened := [record.review for record in records if record.review is not None]:
                await connection.execute(insert(reviews), opened)
                for review in opened if self._sends_events else ():
                    await add_event(connection, "review.opened", review)


@contextlib.asynccontextmanager
async def open_history(
    settings: StoreSettings, metrics: Metrics, background: Background
) -> AsyncIterator[History | None]:
    """The history while the block runs, written in the background; None where nothing is kept. Afterwards every loop
    has ended, as they read the store. Raises SetupError if it cannot be opened."""
    if (url := settings.address()) is None:
        yield None
        return
    redactor = await asyncio.to_thread(redactor_of, settings)
    engine = await open_database(url)
    events = settings.webhook_url is not None
    history = History(engine, metrics, settings.waiting, vault_of(settings), redactor, sends_events=events)
    background.start("history", history.run)
    try:
        yield history
    finally:
        await history.flush()
        await background.stop()
        await engine.dispose()
