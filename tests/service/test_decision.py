"""What a probability allows."""

from __future__ import annotations

from typing import Any

import pytest

from service.decision import Verdict, decide

FITTED: dict[str, Any] = {"event": "acceptable", "selection": {"n": 8, "stopping_rule": "all_scored"}}


def verdict(probability: float | None, calibrator: dict[str, Any] | None = FITTED, n: int = 8) -> Verdict:
    return decide(probability, calibrator, accept_threshold=0.6, review_threshold=0.3, n=n, stopping_rule="all_scored")


@pytest.mark.parametrize(
    ("probability", "decision"),
    [(1.0, "accept"), (0.6, "accept"), (0.599, "review"), (0.3, "review"), (0.299, "fallback"), (0.0, "fallback")],
)
def test_thresholds_belong_to_the_better_side(probability: float, decision: str) -> None:
    assert verdict(probability) == (decision, None)


def test_without_a_calibrator_or_a_probability_a_person_decides() -> None:
    assert verdict(None) == ("review", None)
    assert verdict(0.99, None) == ("review", None)


def test_a_stand_in_event_never_accepts() -> None:
    assert verdict(0.99, FITTED | {"event": "pair_winner"}) == ("review", None)
    assert verdict(0.1, FITTED | {"event": "pair_winner"}) == ("fallback", None)


def test_another_selection_policy_never_accepts_and_says_why() -> None:
    assert verdict(0.99, n=4) == ("review", "calibration_mismatch")
    assert verdict(0.01, n=4) == ("fallback", "calibration_mismatch")
    other = FITTED | {"selection": {"n": 8, "stopping_rule": "early_accept"}}
    assert verdict(0.99, other) == ("review", "calibration_mismatch")
