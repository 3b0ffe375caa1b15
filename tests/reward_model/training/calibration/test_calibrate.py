"""The whole fit: what it says of itself, what it refuses, when a route or the winners get a curve of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from reward_model.errors import BadInput
from reward_model.labels import LabelledReply
from reward_model.training.calibration.calibrate import How, calibrate, route_curves
from reward_model.training.calibration.cross_validation import figures, held_out
from reward_model.training.calibration.curves import fit_curve, fit_platt
from reward_model.training.calibration.labelled import Labelled, labelled

SELECTION = {"n": 4, "policy": "tiny", "temperature": 0.8}
QUICK = How(bootstraps=30)


def by_length(replies: Sequence[LabelledReply]) -> np.ndarray:
    return np.array([len(str(reply.completion)) / 10 for reply in replies])


def _reply(group: int, index: int, words: int, acceptable: bool, **changes: Any) -> LabelledReply:
    row = {
        "id": f"{group}.{index}",
        "prompt": [{"role": "user", "content": f"q{group}"}],
        "completion": "x" * words,
        "acceptable": acceptable,
        "group": f"g{group}",
        "bucket": "refund" if group % 2 else "fraud",
        "selection": SELECTION,
    }
    return LabelledReply.model_validate({**row, **changes})


def _replies(prompts: int, seed: int = 3) -> list[LabelledReply]:
    """Four replies to each prompt; the longer a reply, the likelier it is acceptable."""
    generator = np.random.default_rng(seed)
    made = []
    for group in range(prompts):
        for index in range(4):
            words = int(generator.integers(1, 40))
            made.append(_reply(group, index, words, bool(generator.random() < 1 / (1 + np.exp(3 - words / 8)))))
    return made


@pytest.fixture
def replies() -> list[LabelledReply]:
    return _replies(40)


def test_a_calibrator_says_what_it_stands_on(replies: list[LabelledReply]) -> None:
    calibration = calibrate("toy@1", replies, by_length(replies), How(bootstraps=100))
    assert (calibration.orm, calibration.method, calibration.event) == ("toy@1", "platt", "acceptable")
    expected_selection = {**SELECTION, "stopping_rule": "all_scored", "instructions": ""}
    assert calibration.selection.model_dump(exclude_none=True) == expected_selection
    expected = fit_platt(by_length(replies), np.array([float(r.acceptable) for r in replies]))
    assert (calibration.slope, calibration.intercept) == pytest.approx(tuple(expected))
    known = calibration.fitted_on
    assert known["slope_ci"][0] < calibration.slope < known["slope_ci"][1]
    assert known["slope_ci"][0] > 0
    assert [known[name] for name in ("replies", "prompts", "groups", "winners")] == [160, 40, 40, 40]
    assert known["buckets"] == {"fraud": 80, "refund": 80}
    # 40 winners are too few to stand on alone, 80 labels too few for a route; refunds are billing.
    assert (known["population"], calibration.labels) == ("candidates", 160)
    assert {name: route["curve"] for name, route in known["routes"].items()} == {"billing": "shared", "fraud": "shared"}
    assert "80 labels" in known["routes"]["fraud"]["why"]
    # Without curves of routes, what is served is the shared fit.
    assert calibration.brier == known["compared"]["candidates"]["brier"]
    assert calibration.brier_ci is not None
    assert calibration.brier is not None
    assert calibration.brier_ci[0] <= calibration.brier <= calibration.brier_ci[1]
    assert known["auc"] > 0.5
    # 20 winners a route cannot carry a promise of 5 %: 72 are the least where two routes share delta.
    assert calibration.risk_control is not None
    for threshold in calibration.risk_control.by_route.values():
        assert (threshold.probability, threshold.labels, threshold.needed) == (None, 20, 72)
        assert "too few" in threshold.why


def test_winners_are_fitted_on_where_they_know_better() -> None:
    # Among candidates the longer is the better, and the longest nearly sure; as winners half of those are wrong.
    replies = []
    for group in range(200):
        lengths = (5, 10, 15, 30 + group % 7)
        labels = (False, group % 3 > 0, True, group % 7 > 2 if group % 4 else group % 8 > 0)
        replies += [_reply(group, i, n, ok) for i, (n, ok) in enumerate(zip(lengths, labels, strict=True))]
    acceptable = sum(reply.acceptable for reply in replies if len(str(reply.completion)) >= 30)
    calibration = calibrate("toy@1", replies, by_length(replies), How("platt", by_route=False, bootstraps=30))
    known = calibration.fitted_on
    assert known["compared"]["winners"]["brier"] < known["compared"]["candidates"]["brier"]
    assert (known["population"], calibration.labels, calibration.positives) == ("winners", 200, acceptable)


def test_isotonic_where_labels_are_many_and_only_there() -> None:
    replies = _replies(260)
    calibration = calibrate("toy@1", replies, by_length(replies), How(bootstraps=5))
    known = calibration.fitted_on
    # 1,040 candidates are enough for it; 260 winners and the 520 labels of a route are not, and the two populations
    # are compared under one method, the one that the winners bear.
    assert {shown["method"] for shown in known["compared"].values()} == {"platt"}
    data = labelled(replies, by_length(replies))
    alike = figures(data, held_out(data, data.population("candidates"), "platt"), data.winner, 5)
    assert known["compared"]["candidates"]["brier"] == alike["brier"]
    assert calibration.method == ("isotonic" if known["population"] == "candidates" else "platt")
    assert [curve.method for curve in calibration.by_route.values()] == ["platt", "platt"]
    assert all(curve.brier is not None and curve.ece_ci is not None for curve in calibration.by_route.values())


def test_labels_that_cannot_calibrate_are_refused(replies: list[LabelledReply]) -> None:
    with pytest.raises(BadInput, match="too few"):
        calibrate("toy@1", replies[:40], by_length(replies[:40]), QUICK)
    with pytest.raises(BadInput, match="same label"):
        same = [reply.model_copy(update={"acceptable": True}) for reply in replies]
        calibrate("toy@1", same, by_length(same), QUICK)
    with pytest.raises(BadInput, match="at least 10 groups"):
        one = [reply.model_copy(update={"group": "one"}) for reply in replies]
        calibrate("toy@1", one, by_length(one), QUICK)
    with pytest.raises(BadInput, match="slope is -"):
        calibrate("toy@1", replies, -by_length(replies), QUICK)
    with pytest.raises(BadInput, match="fit is flat"):
        calibrate("toy@1", replies, -by_length(replies), How("isotonic", bootstraps=5))


@pytest.mark.parametrize("changes", [{"alpha": 0}, {"alpha": 1.0}, {"delta": 0}, {"delta": 1.5}])
def test_an_impossible_risk_is_refused_before_anything_is_scored(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="between 0 and 1"):
        How(**changes)


def _winners(scores: np.ndarray, labels: np.ndarray, routes: np.ndarray) -> Labelled:
    return Labelled(scores, labels, np.arange(len(scores)), np.ones(len(scores), dtype=bool), routes)


def test_a_route_gets_its_own_curve_only_with_labels_enough() -> None:
    generator = np.random.default_rng(1)
    scores = generator.normal(size=260)
    routes = np.array(["billing"] * 160 + ["fraud"] * 100)
    labels = (scores + np.where(routes == "billing", 1.0, 0.0) + generator.normal(size=260) > 0).astype(float)
    labels[160:] = 0
    labels[160:165] = 1  # five positives are too few for a curve of fraud
    data, everything = _winners(scores, labels, routes), np.ones(260, dtype=bool)
    curves, known = route_curves(data, everything, QUICK)
    assert list(curves) == ["billing"]
    alone = fit_platt(scores[:160], labels[:160])
    assert (curves["billing"].slope, curves["billing"].intercept) == pytest.approx(tuple(alone))
    assert curves["billing"].brier is not None
    assert known["billing"] == {"labels": 160, "positives": int(labels[:160].sum()), "curve": "own"}
    assert "5 of the rarer kind" in known["fraud"]["why"]
    curves, known = route_curves(data, everything, How(by_route=False))
    assert curves == {}
    assert known["billing"]["why"] == "curves by route were not asked for"


def test_a_route_whose_labels_contradict_the_scores_keeps_the_shared_curve_and_says_so() -> None:
    scores = np.tile(np.arange(100.0), 2)
    routes = np.repeat(["billing", "fraud"], 100)
    labels = np.where(routes == "billing", scores > 50, scores < 50).astype(float)
    curves, known = route_curves(_winners(scores, labels, routes), np.ones(200, dtype=bool), QUICK)
    assert list(curves) == ["billing"]
    assert (known["fraud"]["curve"], "slope is -" in known["fraud"]["why"]) == ("shared", True)


def test_what_is_measured_is_what_is_served() -> None:
    # Two routes of opposite offsets: one curve for both is wrong for each, their own are right.
    generator = np.random.default_rng(5)
    replies = []
    for group in range(240):
        words = int(generator.integers(1, 40))
        offset = 3.0 if group % 2 else -3.0
        acceptable = bool(generator.random() < 1 / (1 + np.exp(-(words - 20) / 5 - offset)))
        replies.append(_reply(group, 0, words, acceptable))
    calibration = calibrate("toy@1", replies, by_length(replies), How(bootstraps=30))
    assert sorted(calibration.by_route) == ["billing", "fraud"]
    shared = calibration.fitted_on["compared"][calibration.fitted_on["population"]]["brier"]
    assert calibration.brier is not None
    assert calibration.brier < 0.8 * shared
    of_routes = [curve.brier or 0 for curve in calibration.by_route.values()]
    assert calibration.brier == pytest.approx(np.mean(of_routes), abs=2e-4)  # routes of equal size


def test_thresholds_are_told_as_probabilities_of_the_route_s_own_curve() -> None:
    replies = []
    for group in range(300):
        good = group % 4 > 1
        replies.append(_reply(group, 0, 30 if good else 5, good))
    # One wrong among the low ones keeps the labels from being separable.
    replies[0] = _reply(0, 0, 5, True)
    calibration = calibrate("toy@1", replies, by_length(replies), How(bootstraps=5))
    assert calibration.risk_control is not None
    for route, threshold in calibration.risk_control.by_route.items():
        assert (threshold.score, threshold.accepted, threshold.unacceptable) == (3.0, 75, 0)
        assert threshold.probability == float(calibration.probability([3.0], route)[0])
        assert route in calibration.by_route


def test_a_flat_route_is_fitted_by_what_it_has() -> None:
    curve = fit_curve("isotonic", np.arange(20, dtype=np.float64), (np.arange(20) >= 10).astype(np.float64))
    assert (curve.on([0.0])[0], curve.on([19.0])[0]) == (0.0, 1.0)
