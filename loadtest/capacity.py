"""The highest rate at which a target meets its objectives, found by doubling and then halving the gap."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from loadtest.report import LoadReport

_MOST_DOUBLINGS = 12


@dataclass(frozen=True)
class Step:
    """One run of the sweep."""

    rate: float
    report: LoadReport

    @property
    def met(self) -> bool:
        """Whether it met every objective."""
        return self.report.met and not self.report.interrupted


@dataclass(frozen=True)
class Sweep:
    """The runs in the order they were made."""

    steps: list[Step]

    @property
    def capacity(self) -> float | None:
        """The highest rate that met every objective below the lowest one that did not; None when none did."""
        missed = min((step.rate for step in self.steps if not step.met), default=math.inf)
        return max((step.rate for step in self.steps if step.met and step.rate < missed), default=None)


async def sweep(measure: Callable[[float], Awaitable[LoadReport]], start: float, halvings: int = 3) -> Sweep:
    """Double the rate from `start` until an objective is missed, then halve the gap (on a log scale) `halvings` times.

    Ends early when a run was stopped by hand, or when already the first misses.
    """
    steps = [Step(start, await measure(start))]
    while steps[-1].met and len(steps) <= _MOST_DOUBLINGS:
        rate = 2 * steps[-1].rate
        steps.append(Step(rate, await measure(rate)))
    found = Sweep(steps)
    for _ in range(halvings):
        if found.capacity is None or steps[-1].report.interrupted or all(step.met for step in steps):
            break
        rate = math.sqrt(found.capacity * min(step.rate for step in steps if not step.met))
        steps.append(Step(rate, await measure(rate)))
    return found
