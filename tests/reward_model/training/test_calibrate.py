from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from reward_model.errors import BadInput
from reward_model.training.calibrate import (
    FOLDS,
    How,
    Labelled,
    calibrate,
    control_risk,
    cross_validated,
    labelled,
    route_curves,
    shared_selection,
    winners,
)
from reward_model.training.curves import fit_curve, fit_platt
from reward_model.training.data import LabelledReply
from reward_model.training.scoring import Score

SELECTION = {"n": 4, "policy": "tiny", "temperature": 0.8}


def by_length(sign: float = 1.0) -> Score:
    """Scores a reply by its length, and one that is longer higher, by `sign`."""

    def score(replies: Sequence[LabelledReply]) -> np.ndarray:
        return np.array([sign * len(str(reply.completion)) / 10 for reply in replies])

    return score


QUICK = How(bootstraps=50)


def _reply(group: int, index: int, words: int, acceptable: bool, **changes: Any) -> LabelledReply:
    row = {
        "id": f"{group}.{index}",
        "prompt": [{"role": "user", "content": f"q{group}"}],
        "completion": "x" * words,
        "acceptable": acceptable,
        "group": f"g{group}",
        "bucket": "billing" if group % 2 else "fraud",
        "selection": SELECTION,
    }
    return LabelledReply.model_validate({**row, **changes})


@pytest.fixture
def replies() -> list[LabelledReply]:
    """40 prompts with 4 replies each; the longer a reply, the likelier it is acceptable."""
    generator = np.random.default_rng(3)
    made = []
    for group in range(40):
        for index in range(4):
            words = int(generator.integers(1, 40))
            made.append(_reply(group, index, words, bool(generator.random() < 1 / (1 + np.exp(3 - words / 8)))))
    return made


def test_platt_is_the_minimum_of_his_loss() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=200)
    labels = (generator.random(200) < 1 / (1 + np.exp(1 - 2 * scores))).astype(float)
    high, low = (labels.sum() + 1) / (labels.sum() + 2), 1 / (200 - labels.sum() + 2)
    targets = np.where(labels == 1, high, low)

    def loss(parameters: Any) -> float:
        z = parameters[0] * scores + parameters[1]
        return float(np.sum(targets * np.logaddexp(0, -z) + (1 - targets) * np.logaddexp(0, z)))

    expected = minimize(loss, [1.0, 0.0], tol=1e-10).x
    assert list(fit_platt(scores, labels)) == pytest.approx(expected, abs=1e-3)


def test_a_separable_set_keeps_a_finite_slope() -> None:
    fit = fit_platt(np.array([-1.0, -2.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert 0 < fit.slope < 10


def test_the_winner_is_what_serving_selects() -> None:
    replies = [
        _reply(0, 0, 5, True, completion_tokens=9),
        _reply(0, 1, 6, True, completion_tokens=4),
        _reply(0, 2, 7, True, completion_tokens=5),
        _reply(1, 0, 5, True),
        _reply(1, 1, 5, True, prompt=[{"role": "user", "content": "a paraphrase"}]),
    ]
    scores = np.array([2.0, 2.0 - 5e-7, 1.0, -3.0, -4.0])
    # The first two tie within 1e-6 and the second has fewer tokens; a paraphrase is a prompt of its own.
    assert winners(scores, replies).tolist() == [False, True, False, True, True]


def test_a_reply_that_was_cut_off_wins_only_among_its_like() -> None:
    cut, ended = {"finish_reason": "length"}, {"finish_reason": "stop"}
    replies = [
        _reply(0, 0, 5, True, **cut),
        _reply(0, 1, 6, True, **ended),
        _reply(1, 0, 5, True, **cut),
        _reply(1, 1, 6, True, **cut),
    ]
    assert winners(np.array([3.0, 1.0, 3.0, 1.0]), replies).tolist() == [False, True, True, False]


def test_a_calibrator_says_what_it_stands_on(replies: list[LabelledReply]) -> None:
    calibration = calibrate("toy@1", replies, by_length(), QUICK)
    assert (calibration.orm, calibration.method, calibration.event) == ("toy@1", "platt", "acceptable")
    assert calibration.selection.model_dump() == {**SELECTION, "stopping_rule": "all_scored"}
    assert calibration.slope is not None
    low, high = calibration.fitted_on["slope_ci"]
    assert 0 < low < calibration.slope < high
    fitted_on = calibration.fitted_on
    assert fitted_on["prompts"] == 40
    assert fitted_on["buckets"] == {"billing": 80, "fraud": 80}
    # 40 winners are too few to stand on alone.
    assert (fitted_on["population"], calibration.labels) == ("candidates", 160)
    assert calibration.brier == fitted_on["compared"]["candidates"]["brier"]
    assert calibration.brier_ci is not None
    assert calibration.brier is not None
    assert calibration.brier_ci[0] <= calibration.brier <= calibration.brier_ci[1]
    # A model that knows something beats the base rate.
    assert calibration.brier < fitted_on["compared"]["candidates"]["brier_of_base_rate"] + 0.02


def test_no_group_is_in_its_own_fit() -> None:
    # Each group has its own label and all scores are equal: a fit that saw the group would lean towards it.
    groups = np.arange(FOLDS)
    labels = (groups % 2).astype(float)
    data = Labelled(
        np.zeros(FOLDS), labels, groups, np.ones(FOLDS, dtype=bool), np.array(["billing"] * FOLDS), groups < 0
    )
    figures = cross_validated(data, "winners", bootstraps=10)
    # Leaving a positive out of 5 + 5 leaves 4 + 5: the smoothed base rate is below one half, and the other way.
    assert figures["brier"] > 0.25


@pytest.mark.parametrize(("method", "said"), [("platt", "slope is -"), ("isotonic", "fit is flat")])
def test_a_model_that_prefers_bad_replies_is_refused(method: Any, said: str) -> None:
    scores, labels = np.arange(60.0), (np.arange(60) < 30).astype(float)
    with pytest.raises(BadInput, match=said):
        fit_curve(method, scores, labels)


def test_labels_that_cannot_calibrate_are_refused(replies: list[LabelledReply]) -> None:
    with pytest.raises(BadInput, match="too few"):
        calibrate("toy@1", replies[:40], by_length(), QUICK)
    with pytest.raises(BadInput, match="same label"):
        same = [reply.model_copy(update={"acceptable": True}) for reply in replies]
        calibrate("toy@1", same, by_length(), QUICK)
    with pytest.raises(BadInput, match="at least 10 groups"):
        one = [reply.model_copy(update={"group": "one"}) for reply in replies]
        calibrate("toy@1", one, by_length(), QUICK)


def test_labels_of_two_selection_policies_are_not_mixed(replies: list[LabelledReply]) -> None:
    assert shared_selection(replies).n == 4
    selection = replies[0].selection
    assert selection is not None
    other = replies[0].model_copy(update={"selection": selection.model_copy(update={"n": 8})})
    for wrong in ([*replies, other], [*replies, replies[0].model_copy(update={"selection": None})], []):
        with pytest.raises(BadInput, match="same selection"):
            shared_selection(wrong)


def test_a_reply_judged_alone_is_a_winner_unless_its_rank_says_not() -> None:
    ranked = [{**SELECTION, "rank": rank} for rank in (1, 2, None)]
    replies = [_reply(i, 0, 5, True, selection=selection) for i, selection in enumerate(ranked)]
    assert winners(np.zeros(3), replies).tolist() == [True, False, True]


def test_an_isotonic_fit_is_scikit_learn_s() -> None:
    from sklearn.isotonic import IsotonicRegression

    generator = np.random.default_rng(0)
    scores = generator.normal(size=300)
    labels = (generator.random(300) < 1 / (1 + np.exp(-scores))).astype(float)
    expected = IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    points = np.linspace(-4, 4, 50)
    curve = fit_curve("isotonic", scores, labels)
    assert curve.on(points) == pytest.approx(expected.predict(points))
    assert (curve.labels, curve.positives) == (300, int(labels.sum()))


def _data(scores: np.ndarray, labels: np.ndarray, routes: np.ndarray) -> Labelled:
    return Labelled(
        scores,
        labels,
        np.arange(len(scores)),
        np.ones(len(scores), dtype=bool),
        routes,
        np.zeros(len(scores), dtype=bool),
    )


def test_a_route_gets_its_own_curve_only_with_labels_enough() -> None:
    generator = np.random.default_rng(1)
    scores = generator.normal(size=260)
    routes = np.array(["billing"] * 160 + ["fraud"] * 100)
    labels = (scores + np.where(routes == "billing", 1.0, 0.0) + generator.normal(size=260) > 0).astype(float)
    labels[160:] = 0
    labels[160:165] = 1  # five positives are too few for a curve of fraud
    data = _data(scores, labels, routes)
    curves = route_curves(data, np.arange(260), "platt")
    assert list(curves) == ["billing"]
    alone = fit_platt(scores[:160], labels[:160])
    assert (curves["billing"].slope, curves["billing"].intercept) == pytest.approx(tuple(alone))


def test_thresholds_are_of_winners_by_route_and_refunds_are_billing(replies: list[LabelledReply]) -> None:
    asked = [r.model_copy(update={"bucket": "refund"}) if r.bucket == "billing" else r for r in replies]
    data = labelled(asked, by_length()(asked))
    assert set(data.routes.tolist()) == {"billing", "fraud"}
    calibration = calibrate("toy@1", asked, by_length(), QUICK)
    control = calibration.risk_control
    assert control is not None
    # 20 winners a route cannot carry a promise of 5 %.
    assert {name: t.probability for name, t in control.by_route.items()} == {"billing": None, "fraud": None}
    assert "too few" in control.by_route["fraud"].why


def test_a_threshold_on_the_score_is_told_as_the_probability_that_a_route_is_configured_with() -> None:
    scores = np.concatenate([np.full(100, 2.0), np.full(100, -2.0)])
    labels = np.repeat([1.0, 0.0], 100)
    data = _data(scores, labels, np.array(["fraud"] * 200))
    curve = fit_curve("platt", scores, labels)
    calibration = calibrate("toy@1", _many(), by_length(), QUICK).model_copy(
        update={"slope": curve.slope, "intercept": curve.intercept, "by_route": {}}
    )
    found = control_risk(calibration, data, 0.05, 0.05).by_route["fraud"]
    assert (found.score, found.accepted, found.unacceptable) == (2.0, 100, 0)
    assert found.probability == pytest.approx(float(curve.on([2.0])[0]))


def _many() -> list[LabelledReply]:
    generator = np.random.default_rng(3)
    return [_reply(g, 0, int(w), bool(w > 20)) for g, w in enumerate(generator.integers(1, 40, size=80))]


def test_winners_judged_alone_do_not_count_as_candidates(replies: list[LabelledReply]) -> None:
    lone = [_reply(100 + i, 0, 30, True, selection={**SELECTION, "rank": 1}) for i in range(5)]
    data = labelled([*replies, *lone], by_length()([*replies, *lone]))
    assert data.usable("candidates").sum() == len(replies)
    assert data.usable("winners").sum() == 45
    only = labelled(lone, by_length()(lone))
    assert only.usable("candidates").sum() == 5
