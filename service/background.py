"""Background tasks. One that dies is logged, counted, restarted with exponential backoff, and named by readiness."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from service.telemetry.failure import frames
from service.telemetry.metrics import Metrics

_LONGEST_PAUSE_SECONDS = 60.0

log = logging.getLogger("winnow.background")


class Background:
    """Named loops, each running until the app stops."""

    def __init__(self, metrics: Metrics, first_pause_seconds: float = 1.0) -> None:
        self._metrics = metrics
        self._first_pause = first_pause_seconds
        self._tasks: list[asyncio.Task[None]] = []
        self.down: set[str] = set()

    def start(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run `loop` under `name`; it never returns unless something is wrong."""
        self._tasks.append(asyncio.create_task(self._keep(name, loop), name=name))

    async def stop(self) -> None:
        """Cancel every loop and wait for it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        pause = self._first_pause
        while True:
            try:
                await loop()
                log.error("the background task %s ended by itself; restarting it in %g s", name, pause)
            except Exception as error:
                log.error("the background task %s failed; restarting it in %g s: %s", name, pause, frames(error))
            self._metrics.background.failures.labels(name).inc()
            self.down.add(name)
            await asyncio.sleep(pause)
            self.down.discard(name)
            pause = min(_LONGEST_PAUSE_SECONDS, 2 * pause)


@asynccontextmanager
async def running_background(metrics: Metrics) -> AsyncIterator[Background]:
    """Background loops while the block runs."""
    background = Background(metrics)
    try:
        yield background
    finally:
        await background.stop()
