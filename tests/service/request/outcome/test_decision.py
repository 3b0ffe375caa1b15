"""What a probability allows."""

from __future__ import annotations

from typing import Any

import pytest

from service.request.outcome.decision import Assessment, accept_threshold, decide, differs

FITTED: dict[str, Any] = {"event": "acceptable", "selection": {"n": 8, "stopping_rule": "all_scored"}}


def verdict(
    probability: float | None, calibrator: dict[str, Any] | None = FITTED, n: int = 8, **more: Any
) -> Assessment:
    live = {"n": (n, None), "stopping_rule": ("all_scored", None), **more.pop("live", {})}
    return decide(probability, calibrator, live, accept_threshold=0.6, review_threshold=0.3, **more)


@pytest.mark.parametrize(
    ("probability", "decision"),
    [(1.0, "accept"), (0.6, "accept"), (0.599, "review"), (0.3, "review"), (0.299, "fallback"), (0.0, "fallback")],
)
def test_thresholds_belong_to_the_better_side(probability: float, decision: str) -> None:
    assert verdict(probability)[:2] == (decision, None)


@pytest.mark.parametrize(
    ("control", "asked", "threshold"),
    [
        ({"alpha": 0.05, "delta": 0.05, "threshold": 0.83}, 0.0, 0.83),
        # A smaller risk is held too; a greater one says nothing.
        ({"alpha": 0.01, "delta": 0.05, "threshold": 0.95}, 0.0, 0.95),
        ({"alpha": 0.10, "delta": 0.05, "threshold": 0.71}, 0.0, None),
        # A request may be stricter and not laxer.
        ({"alpha": 0.05, "delta": 0.05, "threshold": 0.83}, 0.9, 0.9),
        ({"alpha": 0.05, "delta": 0.05, "threshold": 0.83}, 0.5, 0.83),
        ({"alpha": 0.05, "delta": 0.05, "threshold": None}, 0.0, None),
        (None, 0.0, None),
    ],
)
def test_a_risk_takes_the_checkpoints_threshold(control: Any, asked: float, threshold: float | None) -> None:
    assert accept_threshold(asked, 0.05, FITTED | {"risk": control}) == threshold
    assert accept_threshold(0.6, None, FITTED | {"risk": control}) == 0.6


def test_without_a_threshold_for_the_risk_nothing_is_accepted() -> None:
    live = {"n": (8, None), "stopping_rule": ("all_scored", None)}
    assert decide(1.0, FITTED, live, accept_threshold=None, review_threshold=0.3) == ("review", None, "no_threshold")
    assert decide(0.2, FITTED, live, accept_threshold=None, review_threshold=0.3) == ("fallback", None, None)


def test_a_threshold_below_that_of_review_is_both() -> None:
    live = {"n": (8, None), "stopping_rule": ("all_scored", None)}
    assert decide(0.2, FITTED, live, accept_threshold=0.2, review_threshold=0.3).decision == "accept"
    assert decide(0.19, FITTED, live, accept_threshold=0.2, review_threshold=0.3).decision == "fallback"


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


@pytest.mark.parametrize(
    ("fitted", "now", "own", "same"),
    [
        # Recorded by the calibrator: the live value must be that one, whatever the route's own is.
        ({"temperature": 0.8}, 0.8, 0.7, True),
        ({"temperature": 0.8}, 0.7, 0.7, False),
        ({"temperature": 0.8}, None, None, False),
        # Not recorded: it was fitted under the route's own, so a request may not change that.
        ({}, 0.8, 0.8, True),
        ({}, 2.0, 0.8, False),
        ({}, 0.1, None, False),
        ({}, None, None, True),
    ],
)
def test_every_part_of_the_selection_is_compared(
    fitted: dict[str, float], now: float | None, own: float | None, same: bool
) -> None:
    calibrator = FITTED | {"selection": FITTED["selection"] | fitted}
    decided = verdict(0.99, calibrator, live={"temperature": (now, own)})
    assert decided.decision == ("accept" if same else "review")
    assert decided.degraded == (None if same else "calibration_mismatch")
    assert differs(calibrator["selection"], {"temperature": (now, own)}) == ([] if same else ["temperature"])


def test_a_calibrator_must_record_n_and_the_stopping_rule() -> None:
    assert verdict(0.99, FITTED | {"selection": {}}).degraded == "calibration_mismatch"
    assert differs({}, {"n": (8, None), "stopping_rule": ("all_scored", None)}) == ["n", "stopping_rule"]
