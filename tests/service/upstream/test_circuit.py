"""When a circuit opens, how long it stays open, and what closes it."""

from __future__ import annotations

import pytest

from service.upstream.circuit import Circuit


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_it_opens_at_the_limit_of_failures_in_a_row(clock: Clock) -> None:
    circuit = Circuit(3, 5.0, clock)
    for succeed in (False, False, True, False, False):
        circuit.succeed() if succeed else circuit.fail()
        assert not circuit.open
    circuit.fail()
    assert circuit.open
    assert circuit.pause_left() == 5.0
    clock.now += 2
    circuit.fail()
    assert circuit.pause_left() == 3.0, "a call that was under way does not lengthen the pause"
    clock.now += 4
    assert (circuit.open, circuit.pause_left()) == (True, 0.0)


def test_a_trial_that_fails_opens_it_anew(clock: Clock) -> None:
    circuit = Circuit(1, 5.0, clock)
    circuit.fail()
    clock.now += 5
    circuit.fail(trial=True)
    assert circuit.pause_left() == 5.0


def test_a_trial_that_is_answered_closes_it_but_for_one_failure(clock: Clock) -> None:
    circuit = Circuit(3, 5.0, clock)
    for _ in range(3):
        circuit.fail()
    circuit.trial_answered()
    assert not circuit.open
    circuit.fail()
    assert circuit.open


def test_a_success_closes_it_for_good(clock: Clock) -> None:
    circuit = Circuit(2, 5.0, clock)
    circuit.fail()
    circuit.fail()
    circuit.succeed()
    circuit.fail()
    assert not circuit.open
