"""Risk-controlled thresholds against scipy, by hand, and in a thousand simulated draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from reward_model.calibration import Curve
from reward_model.errors import BadInput
from reward_model.training.calibration.curves import fit_curve
from reward_model.training.calibration.labelled import Labelled
from reward_model.training.calibration.thresholds import (
    as_probability,
    control_risk,
    labels_needed,
    one_a_group,
    risk_controlled,
)

DRAWS, DELTA, ALPHA = 1000, 0.1, 0.1
GRID = np.round(np.arange(0.01, 1.0, 0.01), 2)
# P(acceptable) as a function of what the calibrator says; above 0.8 the true risk is just over alpha.
STEPS = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
PLATT = Curve(method="platt", slope=1.0, intercept=0.0, labels=100, positives=50)


@pytest.mark.parametrize(("alpha", "delta", "count"), [(0.05, 0.05, 59), (0.1, 0.05, 29), (0.05, 0.01, 90)])
def test_how_many_labels_the_promise_needs(alpha: float, delta: float, count: int) -> None:
    assert labels_needed(alpha, delta) == count
    assert (1 - alpha) ** count <= delta < (1 - alpha) ** (count - 1)


@pytest.mark.parametrize("unacceptable", [0, 1, 2, 10, 100])
def test_how_many_it_needs_with_errors_among_them(unacceptable: int) -> None:
    count = labels_needed(0.05, 0.025, unacceptable)
    assert binom.cdf(unacceptable, count, 0.05) <= 0.025 < binom.cdf(unacceptable, count - 1, 0.05)


def test_59_accepted_without_an_error_are_enough_and_58_are_not() -> None:
    assert risk_controlled(np.full(59, 0.9), np.ones(59), 0.05, 0.05, GRID).threshold == 0.01
    short = risk_controlled(np.full(58, 0.9), np.ones(58), 0.05, 0.05, GRID)
    assert (short.threshold, short.more) == (None, 1)
    assert "59" in short.why


def test_the_lowest_threshold_before_the_first_that_fails_is_kept() -> None:
    # 100 right at 0.9, 100 at 0.6 of which 20 are wrong: with those the share is 10 %.
    scores = np.repeat([0.9, 0.6], 100)
    good = np.concatenate([np.ones(100), np.repeat([0, 1], [20, 80])])
    found = risk_controlled(scores, good, 0.05, 0.05, GRID)
    assert (found.threshold, found.accepted, found.unacceptable) == (0.61, 100, 0)
    assert found.p_value == pytest.approx(binomtest(0, 100, 0.05, alternative="less").pvalue)


def test_testing_ends_at_the_first_that_fails() -> None:
    # 100 at 0.9 with 10 wrong fail; with the 900 right ones at 0.5 the share would be 1 %, but that is not asked.
    scores = np.repeat([0.9, 0.5], [100, 900])
    good = np.concatenate([np.repeat([0, 1], [10, 90]), np.ones(900)])
    assert risk_controlled(scores, good, 0.05, 0.05, GRID).threshold is None
    # Beginning at 1,000 accepted, chosen beforehand, the strict ones are never asked.
    assert risk_controlled(scores, good, 0.05, 0.05, GRID, least_accepted=1000).threshold == 0.01


def test_too_many_errors_at_the_strictest_give_none_and_say_so() -> None:
    found = risk_controlled(np.full(200, 0.95), np.repeat([0, 1], [20, 180]), 0.05, 0.05, GRID)
    assert found.threshold is None
    assert "20 of the 200" in found.why
    # Fifty-nine new ones, better than all of these, would do; among these it would take far more.
    assert found.more == 59


def test_the_order_of_the_grid_does_not_matter() -> None:
    scores, good = np.repeat([0.9, 0.6], 100), np.concatenate([np.ones(100), np.repeat([0, 1], [20, 80])])
    assert risk_controlled(scores, good, 0.05, 0.05, GRID) == risk_controlled(scores, good, 0.05, 0.05, GRID[::-1])


@pytest.mark.parametrize(("alpha", "delta"), [(0, 0.05), (1, 0.05), (0.05, 0), (0.05, 1.5)])
def test_impossible_risks_are_refused(alpha: float, delta: float) -> None:
    with pytest.raises(BadInput, match="between 0 and 1"):
        risk_controlled([0.5], [True], alpha, delta, GRID)


def _winners(scores: np.ndarray, labels: np.ndarray, routes: np.ndarray, groups: np.ndarray | None = None) -> Labelled:
    of = np.arange(len(scores)) if groups is None else groups
    return Labelled(scores, labels, of, np.ones(len(scores), dtype=bool), routes)


def test_routes_share_delta() -> None:
    # 59 are enough at 0.05, 72 at 0.025: 70 lie between.
    clean = _winners(np.linspace(0, 1, 140), np.ones(140), np.tile(["billing", "fraud"], 70))
    alone = control_risk(clean, {"billing": PLATT}, 0.05, 0.05).by_route["billing"]
    assert (alone.score, alone.accepted, alone.needed) == (0.0, 70, 59)
    assert alone.probability == 0.5
    both = control_risk(clean, {"billing": PLATT, "fraud": PLATT}, 0.05, 0.05).by_route
    assert [(t.probability, t.labels, t.needed, t.more) for t in both.values()] == [(None, 70, 72, 2)] * 2
    assert control_risk(clean, {"billing": PLATT, "fraud": PLATT}, 0.05, 0.05).delta == 0.05


def test_losers_and_paraphrases_do_not_count() -> None:
    scores, routes = np.linspace(0, 1, 120), np.array(["billing"] * 120)
    data = _winners(scores, np.ones(120), routes, groups=np.arange(120) // 2)
    assert control_risk(data, {"billing": PLATT}, 0.05, 0.05).by_route["billing"].labels == 60
    losers = Labelled(scores, np.ones(120), np.arange(120), np.arange(120) < 30, routes)
    assert control_risk(losers, {"billing": PLATT}, 0.05, 0.05).by_route["billing"].labels == 30
    rows = one_a_group(np.arange(120), np.arange(120) // 2)
    assert (rows // 2).tolist() == list(range(60))
    assert 10 < (rows % 2).sum() < 50, "by lot, not always the same of the two"


def test_a_route_without_winners_has_no_threshold() -> None:
    data = Labelled(np.ones(5), np.ones(5), np.arange(5), np.zeros(5, dtype=bool), np.array(["fraud"] * 5))
    found = control_risk(data, {"fraud": PLATT}, 0.05, 0.05).by_route["fraud"]
    assert (found.probability, found.labels, found.more) == (None, 0, 59)


def test_a_flat_part_of_the_curve_lets_nothing_in_that_was_not_tested() -> None:
    # 1 and 2 have one probability, 0.8: accepting from score 2 means accepting from 0.8, which takes score 1 in too.
    curve = Curve(method="isotonic", x=[0.0, 1.0, 2.0, 3.0], y=[0.1, 0.8, 0.8, 0.9], labels=10, positives=5)
    grid = np.array([0.0, 1.0, 2.0, 3.0])
    assert as_probability(curve, 2.0, grid) == 0.9
    assert as_probability(curve, 1.0, grid) == 0.8
    flat = Curve(method="isotonic", x=[0.0, 1.0, 3.0], y=[0.1, 0.8, 0.8], labels=10, positives=5)
    assert as_probability(flat, 2.0, grid) is None
    scores = np.repeat([3.0, 2.0, 1.0], [80, 80, 80])
    labels = np.repeat([1.0, 1.0, 0.0], [80, 80, 80])
    data = _winners(scores, labels, np.array(["fraud"] * 240))
    found = control_risk(data, {"fraud": curve}, 0.05, 0.05).by_route["fraud"]
    assert (found.probability, found.score, found.accepted, found.unacceptable) == (0.9, 3.0, 80, 0)
    none = control_risk(data, {"fraud": flat}, 0.05, 0.05).by_route["fraud"]
    assert (none.probability, none.score) == (None, None)
    assert "flat" in none.why


def _world(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """300 winners; each probability step is optimistic, and the true risk of a threshold is known."""
    probabilities = generator.choice(STEPS, size=300)
    return probabilities, generator.random(300) < _true_share(probabilities)


def _true_share(probabilities: np.ndarray) -> np.ndarray:
    share: np.ndarray = np.interp(probabilities, STEPS, [0.6, 0.7, 0.8, 0.88, 0.95])
    return share


def _true_risk(threshold: float) -> float:
    return float((1 - _true_share(STEPS[threshold <= STEPS])).mean())


def _naive(scores: np.ndarray, good: np.ndarray, grid: np.ndarray) -> float | None:
    """The lowest threshold whose share of errors in the sample is at most alpha."""
    fits = [t for t in grid if (~good[scores >= t]).mean() <= ALPHA]
    return min(fits, default=None)


def _too_often(broken: int) -> bool:
    return bool(binomtest(broken, DRAWS, DELTA, alternative="greater").pvalue < 0.001)


def test_in_a_thousand_draws_the_promise_is_broken_no_more_often_than_delta() -> None:
    generator = np.random.default_rng(7)
    worlds = [_world(generator) for _ in range(DRAWS)]

    def broken(thresholds: list[float | None]) -> int:
        return sum(t is not None and _true_risk(t) > ALPHA for t in thresholds)

    ours = [risk_controlled(scores, good, ALPHA, DELTA, STEPS).threshold for scores, good in worlds]
    assert sum(t is not None for t in ours) > 200  # a rule that always abstains proves nothing
    assert not _too_often(broken(ours))
    # The same test catches a rule that takes the sample's share at its word.
    assert _too_often(broken([_naive(scores, good, STEPS) for scores, good in worlds]))


# Scores of the second world are normal, and an answer is unacceptable with probability 1 / (1 + exp(2 s + 1.5)).
_POINTS = np.linspace(-6, 6, 4001)
_DENSITY = np.exp(-(_POINTS**2) / 2)
_RISKS = (1 / (1 + np.exp(2 * _POINTS + 1.5)) * _DENSITY)[::-1].cumsum()[::-1] / _DENSITY[::-1].cumsum()[::-1]


def test_in_a_thousand_draws_the_joint_promise_on_score_quantiles_is_kept_too() -> None:
    generator = np.random.default_rng(11)
    ours = naive = given = 0
    routes, curves = np.tile(["billing", "fraud"], 150), {"billing": PLATT, "fraud": PLATT}
    for _ in range(DRAWS):
        scores = generator.normal(size=300)
        good = generator.random(300) < 1 / (1 + np.exp(-2 * scores - 1.5))
        data = _winners(scores, good.astype(float), routes)
        control = control_risk(data, curves, ALPHA, DELTA)
        found = [t.score for t in control.by_route.values() if t.score is not None]
        given += bool(found)
        ours += any(np.interp(t, _POINTS, _RISKS) > ALPHA for t in found)
        plain = [_naive(scores[routes == r], good[routes == r], np.sort(scores[routes == r])[::5]) for r in curves]
        naive += any(t is not None and np.interp(t, _POINTS, _RISKS) > ALPHA for t in plain)
    assert given > 500
    assert not _too_often(ours)
    assert _too_often(naive)


def test_a_fitted_curve_keeps_the_threshold_where_the_scores_put_it() -> None:
    scores = np.concatenate([np.full(100, 2.0), np.full(100, -2.0)])
    labels = np.repeat([1.0, 0.0], 100)
    curve = fit_curve("platt", scores, labels)
    data = _winners(scores, labels, np.array(["fraud"] * 200))
    found = control_risk(data, {"fraud": curve}, 0.05, 0.05).by_route["fraud"]
    assert (found.score, found.accepted, found.unacceptable, found.more) == (2.0, 100, 0, None)
    assert found.probability == float(curve.on([2.0])[0])
