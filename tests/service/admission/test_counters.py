"""The counters against those of the library `limits`, and what a passing window gives back."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits.aio.storage import memory

from service.admission.counters import Counters

SECONDS = 60
_STEPS = st.lists(st.tuples(st.floats(0, 90, allow_subnormal=False), st.integers(1, 8)), max_size=30)


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def time(self) -> float:
        return self.now


@settings(deadline=None)
@given(_STEPS, st.integers(1, 20))
def test_they_admit_what_the_library_admits(steps: list[tuple[float, int]], limit: int) -> None:
    clock, storage = Clock(), memory.MemoryStorage()
    counters = Counters(SECONDS, clock.time)

    async def compare() -> None:
        for wait, cost in steps:
            clock.now += wait
            done, window = counters.take("acme", limit, cost)
            assert done is await storage.acquire_sliding_window_entry("acme", limit, SECONDS, cost)
            previous, previous_seconds, current, current_seconds = await storage.get_sliding_window("acme", SECONDS)
            assert (window.previous, window.current) == (previous, current)
            assert window.current_seconds == pytest.approx(current_seconds, abs=1e-3)
            if previous:
                assert window.previous_seconds == pytest.approx(previous_seconds, abs=1e-3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "time", clock)
        asyncio.run(compare())


def test_a_window_fades_as_the_next_one_passes_and_then_is_gone() -> None:
    clock = Clock()
    clock.now = 600.0
    counters = Counters(SECONDS, clock.time)
    assert counters.take("acme", 100, 80)[0]
    clock.now = 675.0
    # A quarter of the next window has passed: three quarters of the 80 count.
    assert counters.window("acme", 100).used == 60
    assert not counters.take("acme", 100, 41)[0]
    assert counters.take("acme", 100, 40)[0]
    clock.now = 795.0
    assert counters.window("acme", 100).used == 0


def test_what_is_given_back_late_does_not_make_a_debt_of_ours() -> None:
    clock = Clock()
    clock.now = 600.0
    counters = Counters(SECONDS, clock.time)
    counters.take("acme", 100, 80)
    clock.now = 725.0
    counters.add("acme", -50)
    assert counters.window("acme", 100).remaining == 100
