"""The sweep finds the highest rate that a target of known capacity holds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from loadtest.capacity import Sweep, sweep
from loadtest.client import RequestOutcome
from loadtest.report import LoadLimits, LoadReport, summarise
from loadtest.run import LoadResult


def holding(capacity: float, asked: list[float]) -> Callable[[float], Awaitable[LoadReport]]:
    """A target that answers within its 100 ms up to `capacity` requests a second."""

    async def measure(rate: float) -> LoadReport:
        asked.append(rate)
        latency = 50.0 if rate <= capacity else 500.0
        return summarise(
            LoadResult([RequestOutcome("default", latency, 0.0)], 1.0, False), LoadLimits(1000.0, p95_ms=100.0)
        )

    return measure


def test_doubles_until_missed_and_then_halves_the_gap() -> None:
    asked: list[float] = []
    found = asyncio.run(sweep(holding(5.0, asked), 1.0))
    # 4 held and 8 did not; 4 * 2^(1/2) = 5.66 did not; 4 * 2^(1/4) = 4.76 held; 4 * 2^(3/8) = 5.19 did not.
    assert asked == pytest.approx([1, 2, 4, 8, 5.656854, 4.756828, 5.187358])
    assert found.capacity == pytest.approx(4.756828)


def test_a_target_that_holds_nothing_has_no_capacity() -> None:
    asked: list[float] = []
    assert asyncio.run(sweep(holding(0.5, asked), 1.0)).capacity is None
    assert asked == [1.0]


def test_a_higher_rate_met_by_luck_is_not_the_capacity() -> None:
    found = asyncio.run(sweep(holding(5.0, []), 1.0))
    lucky = replace(found.steps[0], rate=100.0)
    assert Sweep([*found.steps, lucky]).capacity == found.capacity


def test_a_run_stopped_by_hand_ends_the_sweep() -> None:
    asked: list[float] = []
    met = holding(100.0, asked)

    async def stopped_at_the_second(rate: float) -> LoadReport:
        report = await met(rate)
        return replace(report, interrupted=len(asked) == 2)

    assert asyncio.run(sweep(stopped_at_the_second, 1.0)).capacity == 1.0
    assert asked == [1.0, 2.0]
