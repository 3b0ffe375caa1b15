"""The batcher: order, budget, dropping, failing, dying."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from reward_model.errors import BadInput, DeadlineExceeded, EngineFailed, ScorerOverloaded
from reward_model.serving.batcher import Batcher, _Entry
from reward_model.serving.metrics import ScorerMetrics


class Recorder:
    """A forward pass that sums the ids, records its batches, and can be held up or made to fail."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.value: float | None = None
        self.missing = 0

    def __call__(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        self.batches.append([list(ids) for ids in sequences])
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        scores = [self.value if self.value is not None else float(sum(ids)) for ids in sequences]
        return scores[: len(scores) - self.missing]


@asynccontextmanager
async def batcher(forward: Recorder, tokens: int = 100, waiting: int = 100) -> AsyncIterator[Batcher[Any, float]]:
    made = Batcher(forward, tokens, waiting, ScorerMetrics(CollectorRegistry()), number=float)
    made.start()
    try:
        yield made
    finally:
        forward.gate.set()
        await made.stop()


async def _held(queue: Batcher[Any, float], forward: Recorder) -> asyncio.Task[float]:
    """Keep the thread busy with one sequence, so that what comes next gathers."""
    forward.gate.clear()
    task = asyncio.create_task(queue.score([0]))
    while not forward.batches:
        await asyncio.sleep(0.005)
    return task


async def test_what_gathers_during_a_pass_is_one_batch() -> None:
    forward = Recorder()
    async with batcher(forward) as queue:
        first = await _held(queue, forward)
        rest = [asyncio.create_task(queue.score([i, i])) for i in range(1, 5)]
        await asyncio.sleep(0.02)
        forward.gate.set()
        assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8]
        assert [len(batch) for batch in forward.batches] == [1, 4]


async def test_the_budget_counts_padding_and_a_longer_one_runs_alone() -> None:
    forward = Recorder()
    async with batcher(forward, tokens=10) as queue:
        first = await _held(queue, forward)
        lengths = [2, 4, 2, 30, 1]
        rest = [asyncio.create_task(queue.score([1] * length, deadline=1e12 + i)) for i, length in enumerate(lengths)]
        await asyncio.sleep(0.02)
        forward.gate.set()
        assert await asyncio.gather(*rest) == lengths
        await first
        # 2, 4 -> 8 padded; a third would make 12. Then 2 alone, because 30 with it would be 60; then 30; then 1.
        assert [[len(ids) for ids in batch] for batch in forward.batches[1:]] == [[2, 4], [2], [30], [1]]


async def test_the_shortest_deadline_goes_first() -> None:
    forward = Recorder()
    async with batcher(forward, tokens=1) as queue:
        first = await _held(queue, forward)
        now = time.monotonic()
        rest = [asyncio.create_task(queue.score([i], deadline=now + d)) for i, d in ((1, 9), (2, 3), (3, 6))]
        last = asyncio.create_task(queue.score([4]))
        await asyncio.sleep(0.02)
        forward.gate.set()
        await asyncio.gather(first, last, *rest)
        assert [batch[0][0] for batch in forward.batches[1:]] == [2, 3, 1, 4]


async def test_work_whose_time_passed_or_whose_client_left_costs_nothing() -> None:
    forward = Recorder()
    async with batcher(forward) as queue:
        first = await _held(queue, forward)
        late = asyncio.create_task(queue.score([1], deadline=time.monotonic() + 0.01))
        left = asyncio.create_task(queue.score([2]))
        await asyncio.sleep(0.05)
        left.cancel()
        forward.gate.set()
        with pytest.raises(DeadlineExceeded):
            await late
        with suppress(asyncio.CancelledError):
            await left
        await first
        assert await queue.score([3]) == 3
        assert forward.batches == [[[0]], [[3]]]


async def test_a_failed_batch_answers_every_member_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    forward = Recorder()
    async with batcher(forward) as queue:
        first = await _held(queue, forward)
        forward.error = RuntimeError("out of memory")
        rest = [asyncio.create_task(queue.score([i])) for i in range(3)]
        await asyncio.sleep(0.02)
        forward.gate.set()
        for task in (first, *rest):
            with pytest.raises(EngineFailed, match=r"failed \(RuntimeError\); see the scorer's log"):
                await task
        assert "out of memory" in caplog.text
        forward.error = None
        assert await queue.score([5]) == 5
        assert queue.alive


@pytest.mark.parametrize("value", [math.nan, math.inf])
async def test_a_score_that_is_no_number_is_never_returned(value: float) -> None:
    forward = Recorder()
    forward.value = value
    async with batcher(forward) as queue:
        with pytest.raises(EngineFailed, match="weights or precision"):
            await queue.score([1])


async def test_too_much_waiting_is_refused_at_once() -> None:
    async with batcher(Recorder(), waiting=4) as queue:
        with queue.permit(3):
            with pytest.raises(ScorerOverloaded, match="3 of 4 places are taken") as refused, queue.permit(2):
                pass
            assert refused.value.retry_after == 1
            with queue.permit(1):
                pass
        with queue.permit(4), pytest.raises(ScorerOverloaded), queue.permit(1):
            pass
        with pytest.raises(BadInput, match="send at most 4"), queue.permit(5):
            pass
        with queue.permit(4):
            pass


async def test_a_dead_owner_fails_whoever_waits_and_whoever_comes() -> None:
    forward = Recorder()
    async with batcher(forward) as queue:
        first = await _held(queue, forward)
        waiting = asyncio.create_task(queue.score([1]))
        await asyncio.sleep(0.02)
        assert queue._owner is not None
        queue._owner.cancel()
        for task in (first, waiting):
            with pytest.raises(EngineFailed):
                await task
        assert not queue.alive
        with pytest.raises(EngineFailed, match="has died"):
            await queue.score([2])
        with pytest.raises(EngineFailed, match="has died"), queue.permit(1):
            pass


async def test_a_defect_in_the_owner_fails_whoever_waits(caplog: pytest.LogCaptureFixture) -> None:
    forward = Recorder()
    async with batcher(forward) as queue:
        first = await _held(queue, forward)

        # Outside the forward pass.
        def defect() -> Callable[[Any], int]:
            raise ZeroDivisionError

        queue._cost = defect
        waiting = [asyncio.create_task(queue.score([1])), asyncio.create_task(queue.score([2]))]
        await asyncio.sleep(0.02)
        forward.gate.set()
        await first
        for task in waiting:
            with pytest.raises(EngineFailed, match="died"):
                await task
        assert not queue.alive
        assert "ZeroDivisionError" in caplog.text


async def test_a_batch_is_as_large_as_its_cost_allows() -> None:
    forward = Recorder()
    async with batcher(forward, tokens=10) as queue:
        first = await _held(queue, forward)
        asked: list[tuple[int, ...]] = []

        def distinct() -> Callable[[Any], int]:
            items: set[tuple[int, ...]] = set()

            def add(item: Any) -> int:
                asked.append(tuple(item))
                items.add(asked[-1])
                return 4 * len(items)

            return add

        queue._cost = distinct
        rest = [asyncio.create_task(queue.score([i // 2], deadline=1e12 + i)) for i in range(6)]
        await asyncio.sleep(0.02)
        forward.gate.set()
        assert await asyncio.gather(*rest) == [0, 0, 1, 1, 2, 2]
        await first
    assert forward.batches[1:] == [[[0], [0], [1], [1]], [[2], [2]]]
    assert asked == [(0,), (0,), (1,), (1,), (2,), (2,), (2,)], "each once a batch, and the first that does not fit"


async def test_what_has_no_deadline_is_not_starved() -> None:
    forward = Recorder()
    async with batcher(forward, tokens=1) as queue:
        queue._patience = 0.05
        first = await _held(queue, forward)
        patient = asyncio.create_task(queue.score([1]))
        await asyncio.sleep(0.1)
        urgent = [asyncio.create_task(queue.score([i], deadline=time.monotonic() + 5)) for i in (2, 3)]
        await asyncio.sleep(0.02)
        forward.gate.set()
        await asyncio.gather(first, patient, *urgent)
        assert [batch[0][0] for batch in forward.batches[1:]] == [1, 2, 3]


async def test_too_few_scores_are_a_failed_batch() -> None:
    forward = Recorder()
    forward.missing = 1
    async with batcher(forward) as queue:
        with pytest.raises(EngineFailed, match="ValueError"):
            await queue.score([1])
        assert queue.alive


async def test_a_deadline_answers_on_time_even_during_a_long_pass() -> None:
    forward = Recorder()
    async with batcher(forward) as queue:
        first = await _held(queue, forward)
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await queue.score([1], deadline=began + 0.05)
        assert 0.04 < time.monotonic() - began < 5
        assert not first.done(), "the pass before it still runs"
        forward.gate.set()
        await first


async def test_stopping_answers_whoever_waits() -> None:
    forward = Recorder()
    async with batcher(forward) as queue:
        first = await _held(queue, forward)
        waiting = asyncio.create_task(queue.score([1]))
        await asyncio.sleep(0.02)
        stopping = asyncio.create_task(queue.stop())
        for task in (first, waiting):
            with pytest.raises(EngineFailed, match="stopping"):
                await task
        forward.gate.set()
        await stopping


class Timed(Recorder):
    """A pass of 10 ms and 1 ms a token by its own clock, which stands still otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0

    def __call__(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        self.now += 0.010 + 0.001 * sum(map(len, sequences))
        return super().__call__(sequences)


def total() -> Callable[[Any], int]:
    tokens = 0

    def add(item: Any) -> int:
        nonlocal tokens
        tokens += len(item)
        return tokens

    return add


@pytest.mark.parametrize(
    ("left_ms", "expected"),
    [
        # Each has 20 tokens: 1 takes 30 ms, 2 take 50, 3 take 70, 4 take 90. The budget ends at five.
        ([1_000] * 7, [5, 2]),
        ([75, 500, 500, 500, 500], [3, 2]),
        ([500, 75, 500, 500, 500], [3, 2]),
        ([32, 500, 500], [1, 2]),
        # Nothing can save the first, so it holds nobody up; the second leaves time for three.
        ([5, 75, 500, 500], [3, 1]),
        ([None, None, None, None], [4]),
        ([None, None, 75, None, 500], [3, 2]),
    ],
)
async def test_a_batch_is_as_large_as_the_nearest_deadline_allows(
    left_ms: list[int | None], expected: list[int]
) -> None:
    forward = Timed()
    metrics = ScorerMetrics(CollectorRegistry())
    queue: Batcher[Any, float] = Batcher(forward, 100, 100, metrics, total, number=float, clock=lambda: forward.now)
    for tokens in (10, 50) * 300:
        queue._pass_time.observe(tokens, 0.010 + 0.001 * tokens)
    loop = asyncio.get_running_loop()
    batches = []
    for left in left_ms:
        deadline = math.inf if left is None else forward.now + left / 1000
        queue._waiting.append(_Entry([1] * 20, deadline, loop.create_future(), forward.now))
    while queue._waiting:
        batch, _ = queue._take()
        batches.append(len(batch))
    assert batches == expected


async def test_the_time_of_a_pass_is_learned_from_passes() -> None:
    forward = Timed()
    metrics = ScorerMetrics(CollectorRegistry())
    queue: Batcher[Any, float] = Batcher(forward, 100, 100, metrics, total, number=float, clock=lambda: forward.now)
    queue.start()
    for length in (10, 50) * 30:
        await queue.score([1] * length)
    assert queue._pass_time.at_most(80) == pytest.approx(0.090, abs=0.005)
    await queue.stop()
