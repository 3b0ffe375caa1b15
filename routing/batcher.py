"""Routing for an event loop: the quick part on the loop, the rest in batches on one thread.

The n-grams answer most conversations in less time than handing them to a thread would take. The others wait in one
queue; a thread takes what is waiting, at most `BATCH` at a time, so that concurrent prompts share one hand-over and
never have more encoders running than cores were meant for routing. Within a batch the encoder still reads one text
a run: int8 activations are scaled by the largest of the input, so a text's probability would depend on its neighbours.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from routing.router import RouteDecision
from routing.text.conversation import Messages

BATCH = 8


class QuickRouter(Protocol):
    """The seam: `Router`, or a fake."""

    def quick(self, conversation: Messages) -> RouteDecision | None:
        """The decision if it takes no encoder."""

    def route(self, conversation: Messages) -> RouteDecision:
        """The decision."""


Waiting = tuple[Messages, "asyncio.Future[RouteDecision]"]


class RouteBatcher:
    """Routes for one event loop; `close` when it stops."""

    def __init__(self, router: QuickRouter) -> None:
        self._router = router
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="router")
        self._waiting: deque[Waiting] = deque()
        self._running: asyncio.Task[None] | None = None

    async def route(self, messages: Messages) -> RouteDecision:
        """The route of messages."""
        decision = self._router.quick(messages)
        if decision is not None:
            return decision
        future: asyncio.Future[RouteDecision] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, future))
        if self._running is None:
            self._running = asyncio.create_task(self._drain())
        return await future

    async def close(self) -> None:
        """Finish what waits, then end the thread."""
        if self._running is not None:
            await self._running
        self._pool.shutdown()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                # A client that went away needs no route.
                batch = [entry for entry in batch if not entry[1].done()]
                outcomes: Sequence[RouteDecision | Exception]
                try:
                    outcomes = await loop.run_in_executor(self._pool, self._run, [messages for messages, _ in batch])
                except RuntimeError as error:  # The thread has ended.
                    outcomes = [error] * len(batch)
                for (_, future), outcome in zip(batch, outcomes, strict=True):
                    _settle(future, outcome)
        finally:
            self._running = None

    def _run(self, batch: Sequence[Messages]) -> list[RouteDecision | Exception]:
        outcomes: list[RouteDecision | Exception] = []
        for messages in batch:
            try:
                outcomes.append(self._router.route(messages))
            except Exception as error:
                outcomes.append(error)
        return outcomes


def _settle(future: asyncio.Future[RouteDecision], outcome: RouteDecision | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
