"""What is left of a window and when more is free, against values worked out by hand."""

from __future__ import annotations

import pytest

from service.admission.window import Window


def test_an_empty_window_has_all_of_its_limit() -> None:
    window = Window(10, 60)
    assert (window.remaining, window.reset, window.wait(10)) == (10, 0, 0)


def test_the_window_before_fades_as_time_passes() -> None:
    # 15 s of the current minute are over: 45 of the 60 s before still count, so 8 of 12 weigh 8 * 45 / 60 = 6.
    window = Window(12, 60, previous=8, previous_seconds=45, current=4, current_seconds=105)
    assert window.used == pytest.approx(10)
    assert window.remaining == 2
    # The four of the current minute count until the end of the next one.
    assert window.reset == 105
    assert window.wait(2) == 0
    # Four more need 8 * t / 60 + 4 + 4 <= 12, so t = 30 s must be left of the 45.
    assert window.wait(4) == pytest.approx(15)
    # Twelve need an empty window: 45 s until this minute is over, then 60 until its four have faded.
    assert window.wait(12) == pytest.approx(105)
    # Ten need room for two of the four: half of the next minute.
    assert window.wait(10) == pytest.approx(45 + 30)


def test_what_is_left_is_told_in_headers() -> None:
    window = Window(12, 60, previous=6, previous_seconds=30)
    assert window.headers("tokens") == {
        "x-ratelimit-limit-tokens": "12",
        "x-ratelimit-remaining-tokens": "9",
        "x-ratelimit-reset-tokens": "30.000s",
    }


def test_more_given_back_than_taken_is_no_credit() -> None:
    assert Window(12, 60, current=-5, current_seconds=100).remaining == 12
