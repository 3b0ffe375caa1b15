"""The estimate of a pass's time, by hand and against passes drawn from a known law."""

from __future__ import annotations

import random

import pytest

from reward_model.serving.pass_time import PassTime


def after(*passes: tuple[int, float]) -> PassTime:
    learned = PassTime()
    for tokens, seconds in passes:
        learned.observe(tokens, seconds)
    return learned


def test_nothing_is_known_before_the_first_pass_and_a_share_of_it_after() -> None:
    assert PassTime().at_most(1_000) == 0
    assert after((100, 0.5)).at_most(200) == pytest.approx(1.0)


def test_two_sizes_tell_the_fixed_cost() -> None:
    learned = after(*[(100, 0.2), (300, 0.4)] * 200)
    # 0.1 s and 1 ms a token; the first guess of 0.6 s for 300 is forgotten.
    assert learned.at_most(500) == pytest.approx(0.6, abs=1e-3)
    assert learned.at_most(1) == pytest.approx(0.101, abs=1e-3)


def test_a_machine_that_slows_down_is_noticed() -> None:
    learned = after(*[(100, 0.1), (200, 0.2)] * 50, *[(100, 0.3), (200, 0.6)] * 100)
    assert learned.at_most(100) == pytest.approx(0.3, rel=0.05)


def test_larger_passes_that_were_faster_give_no_negative_cost() -> None:
    learned = after((100, 0.4), (200, 0.2))
    assert learned.at_most(10_000) > learned.at_most(10) > 0


def test_few_passes_take_longer_than_said() -> None:
    chance = random.Random(0)
    learned, longer = PassTime(), 0
    for number in range(2_000):
        tokens = chance.randint(50, 2_000)
        seconds = 0.01 + 0.0002 * tokens + chance.gauss(0, 0.01)
        longer += number >= 100 and seconds > learned.at_most(tokens)
        learned.observe(tokens, seconds)
    assert longer / 1_900 < 0.05
    assert learned.at_most(1_000) < 0.21 + 0.05
