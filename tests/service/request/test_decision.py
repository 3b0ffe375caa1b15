"""What a probability allows."""

from __future__ import annotations

from typing import Any

import pytest

from service.request.decision import Assessment, decide

FITTED: dict[str, Any] = {"event": "acceptable", "selection": {"n": 8, "stopping_rule": "all_scored"}}


def verdict(
    probability: float | None, calibrator: dict[str, Any] | None = FITTED, n: int = 8, **more: Any
) -> Assessment:
    rule: dict[str, Any] = {"n": n, "stopping_rule": "all_scored"}
    return decide(probability, calibrator, accept_threshold=0.6, review_threshold=0.3, **rule, **more)


@pytest.mark.parametrize(
    ("probability", "decision"),
    [(1.0, "accept"), (0.6, "accept"), (0.599, "review"), (0.3, "review"), (0.299, "fallback"), (0.0, "fallback")],
)
def test_thresholds_belong_to_the_better_side(probability: float, decision: str) -> None:
    assert verdict(probability)[:2] == (decision, None)


def test_without_a_calibrator_or_a_probability_a_person_decides() -> None:
    assert verdict(None) == ("review", None, "no_calibrator")
    assert verdict(0.99, None) == ("review", None, "no_calibrator")


def test_a_stand_in_event_never_accepts() -> None:
    assert verdict(0.99, FITTED | {"event": "pair_winner"}) == ("review", None, "calibrated_on_pairs")
    assert verdict(0.1, FITTED | {"event": "pair_winner"}) == ("fallback", None, None)


def test_another_selection_policy_never_accepts_and_says_why() -> None:
    assert verdict(0.99, n=4) == ("review", "calibration_mismatch", "calibration_mismatch")
    assert verdict(0.01, n=4) == ("fallback", "calibration_mismatch", None)
    other = FITTED | {"selection": {"n": 8, "stopping_rule": "early_accept"}}
    assert verdict(0.99, other)[:2] == ("review", "calibration_mismatch")


@pytest.mark.parametrize("probability", [0.01, 0.45, 0.99])
def test_what_a_rule_flags_a_person_sees(probability: float) -> None:
    assert verdict(probability, flag="wire transfer") == ("review", None, "red_flag:wire transfer")


@pytest.mark.parametrize(
    ("probability", "disagreement", "limit", "decision", "reason"),
    [
        (0.9, 0.51, 0.5, "review", "disagreement"),
        (0.9, 0.5, 0.5, "accept", None),
        (0.9, 9.0, None, "accept", None),
        (0.9, None, 0.5, "accept", None),
        (0.1, 9.0, 0.5, "fallback", None),
        (0.4, 9.0, 0.5, "review", "probability"),
    ],
)
def test_an_ensemble_that_disagrees_does_not_accept(
    probability: float, disagreement: float | None, limit: float | None, decision: str, reason: str | None
) -> None:
    said = verdict(probability, disagreement=disagreement, max_disagreement=limit)
    assert said == (decision, None, reason)
