"""Batches across requests: one task owns the queue, one thread runs the model.

No artificial delay: while a forward pass runs, the next batch gathers. The shortest deadline goes first, and what has
none after a while. A batch is as large as the nearest deadline in it allows, by the time that passes have taken. Work
whose client left or whose deadline passed is dropped before it costs anything; a batch that memory does not hold is
halved; a failed batch answers every member; a dead owner answers everybody. Callers hold a permit while they prepare
and wait, so that overload is refused before work.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from reward_model.errors import BadInput, DeadlineExceeded, EngineFailed, OutOfMemory, ScorerOverloaded
from reward_model.serving.metrics import ScorerMetrics
from reward_model.serving.pass_time import PassTime

# What is scored, of which only the length matters here, and what scoring it gives.
Item = TypeVar("Item", bound=Sized)
Score = TypeVar("Score")

# How long what has no deadline lets others go first: it is then as urgent as if its deadline were now.
_PATIENCE = 10.0

log = logging.getLogger("winnow.scorer")


@dataclass
class _Entry(Generic[Item, Score]):
    ids: Item
    deadline: float
    future: asyncio.Future[Score]
    entered: float


class Batcher(Generic[Item, Score]):
    """Scores token sequences by `forward`, at most `max_batch_tokens` at a time.

    `cost` begins a batch: it returns a function that takes the batch's next item and gives the tokens of all so far.
    `number` gives a score's value.
    """

    def __init__(
        self,
        forward: Callable[[Sequence[Item]], Sequence[Score]],
        max_batch_tokens: int,
        max_waiting: int,
        metrics: ScorerMetrics,
        cost: Callable[[], Callable[[Item], int]] | None = None,
        patience: float = _PATIENCE,
        *,
        number: Callable[[Score], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._forward = forward
        self._cost = cost or padded_tokens
        self._patience = patience
        self._number = number
        self._clock = clock
        self._pass_time = PassTime()
        self._budget = max_batch_tokens
        self._capacity = max_waiting
        self._admitted = 0
        self._metrics = metrics
        self._waiting: list[_Entry[Item, Score]] = []
        self._running: list[_Entry[Item, Score]] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="winnow-forward")
        self._owner: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether the task that owns the queue runs."""
        return self._owner is not None and not self._owner.done()

    def start(self) -> None:
        """Start the owner of the queue."""
        self._owner = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End the owner; whatever still waits fails."""
        if self._owner is not None:
            self._owner.cancel()
            await asyncio.gather(self._owner, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

    @contextmanager
    def permit(self, count: int) -> Iterator[None]:
        """Hold room for `count` sequences, from before they are tokenised until they are answered.

        Raises ScorerOverloaded where there is no room now, BadInput where there never is, EngineFailed without an
        owner.
        """
        self._check_alive()
        if count > self._capacity:
            raise BadInput(f"{count} texts at once are more than this scorer takes; send at most {self._capacity}")
        if self._admitted + count > self._capacity:
            raise ScorerOverloaded(
                f"{self._admitted} of {self._capacity} places are taken; {count} more do not fit now"
            )
        self._admitted += count
        try:
            yield
        finally:
            self._admitted -= count

    async def score(self, ids: Item, deadline: float = math.inf) -> Score:
        """Score of one sequence; `deadline` in the monotonic clock.

        Raises DeadlineExceeded as soon as its time passes, EngineFailed when the forward pass fails or nobody is
        left to run it.
        """
        self._check_alive()
        loop = asyncio.get_running_loop()
        entry: _Entry[Item, Score] = _Entry(ids, deadline, loop.create_future(), self._clock())
        self._waiting.append(entry)
        self._arrived.set()
        late = DeadlineExceeded("the deadline passed before the completion was scored")
        timer = loop.call_later(deadline - self._clock(), _fail, entry, late) if deadline < math.inf else None
        try:
            # Cancelling the caller cancels the future, and the owner drops the entry.
            return await entry.future
        finally:
            if timer is not None:
                timer.cancel()

    def _check_alive(self) -> None:
        if not self.alive:
            raise EngineFailed("the scoring worker has died; restart the scorer")

    async def _run(self) -> None:
        try:
            while True:
                await self._arrived.wait()
                self._drop_dead()
                self._running, tokens = self._take()
                if not self._running:
                    self._arrived.clear()
                    continue
                await self._score(self._running, tokens)
        except Exception:
            log.exception("the scoring worker died")
        finally:
            for entry in (*self._running, *self._waiting):
                _fail(entry, EngineFailed("the scorer is stopping or its worker has died"))
            self._waiting.clear()

    def _drop_dead(self) -> None:
        now, left = self._clock(), []
        for entry in self._waiting:
            if entry.future.cancelled():
                self._metrics.dropped.labels("client_left").inc()
            elif entry.future.done() or entry.deadline <= now:
                self._metrics.dropped.labels("deadline").inc()
                _fail(entry, DeadlineExceeded("the deadline passed before the completion was scored"))
            else:
                left.append(entry)
        self._waiting = left

    def _take(self) -> tuple[list[_Entry[Item, Score]], int]:
        """The most urgent entries that fit, and their tokens; one that is too long by itself still runs, alone.

        They fit as long as the pass is expected to end before the nearest deadline among them. A deadline that was
        missed before its entry's turn came holds nobody up.
        """
        self._waiting.sort(key=self._urgency)
        add, fit, tokens, nearest, now = self._cost(), 0, 0, math.inf, self._clock()
        for entry in self._waiting:
            more = add(entry.ids)
            end = now + self._pass_time.at_most(more)
            if fit and (more > self._budget or end > nearest):
                break
            if end <= entry.deadline:
                nearest = min(nearest, entry.deadline)
            fit, tokens = fit + 1, more
        batch, self._waiting = self._waiting[:fit], self._waiting[fit:]
        return batch, tokens

    def _urgency(self, entry: _Entry[Item, Score]) -> float:
        return entry.deadline if entry.deadline < math.inf else entry.entered + self._patience

    async def _score(self, batch: list[_Entry[Item, Score]], tokens: int) -> None:
        self._observe(batch, tokens, self._clock())
        await self._pass(batch, tokens)

    async def _pass(self, batch: list[_Entry[Item, Score]], tokens: int | None = None) -> None:
        """One forward pass, or one for each half of a batch that memory does not hold, so that at most the sequence
        that is too large by itself fails. `tokens`, where they are known, teach how long a pass takes."""
        began = self._clock()
        try:
            scores = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._forward, [entry.ids for entry in batch]
            )
            answers = list(zip(batch, scores, strict=True))
        except OutOfMemory as error:
            log.warning("a forward pass over %d sequences ran out of memory", len(batch))
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            middle = len(batch) // 2
            await self._pass(batch[:middle])
            await self._pass(batch[middle:])
            return
        except Exception as error:
            log.exception("a forward pass over %d sequences failed", len(batch))
            for entry in batch:
                _fail(entry, EngineFailed(f"the forward pass failed ({type(error).__name__}); see the scorer's log"))
            return
        seconds = self._clock() - began
        self._metrics.forward.observe(seconds)
        if tokens is not None:
            self._pass_time.observe(tokens, seconds)
        for entry, score in answers:
            if not math.isfinite(value := self._number(score)):
                _fail(entry, EngineFailed(f"the model's score is {value}; its weights or precision are broken"))
            elif not entry.future.done():
                entry.future.set_result(score)

    def _observe(self, batch: list[_Entry[Item, Score]], tokens: int, now: float) -> None:
        self._metrics.batch_size.observe(len(batch))
        self._metrics.batch_tokens.observe(tokens)
        for entry in batch:
            self._metrics.queue.observe(now - entry.entered)


def padded_tokens() -> Callable[[Sized], int]:
    """Counts the tokens of a pass over rows of one length."""
    count = longest = 0

    def add(item: Sized) -> int:
        nonlocal count, longest
        count, longest = count + 1, max(longest, len(item))
        return count * longest

    return add


def _fail(entry: _Entry[Any, Any], error: Exception) -> None:
    if not entry.future.done():
        entry.future.set_exception(error)
