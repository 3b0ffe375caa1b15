"""What is measured, and that nothing is measured on what it was fitted on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from reward_model.calibration import Curve
from reward_model.training.calibration.cross_validation import (
    FOLDS,
    figures,
    held_out,
    held_out_as_served,
    ranking,
    resamples,
    slope_interval,
)
from reward_model.training.calibration.curves import fit_platt
from reward_model.training.calibration.labelled import Labelled


def _data(count: int = 200, seed: int = 0, groups: int | None = None) -> Labelled:
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=count)
    labels = (generator.random(count) < 1 / (1 + np.exp(-2 * scores))).astype(float)
    return Labelled(
        scores=scores,
        labels=labels,
        groups=np.arange(count) % (groups or count),
        winner=generator.random(count) < 0.5,
        routes=np.where(np.arange(count) % 2, "billing", "fraud"),
    )


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_no_group_is_in_its_own_fit(method: Any) -> None:
    data, everything = _data(groups=40), np.ones(200, dtype=bool)
    before = held_out(data, everything, method)
    assert np.isfinite(before).all()
    # Turning a group's labels round changes what others are told, and not what the group is told.
    group = data.groups == 3
    turned = Labelled(data.scores, np.where(group, 1 - data.labels, data.labels), data.groups, data.winner, data.routes)
    after = held_out(turned, everything, method)
    assert (before[group] == after[group]).all()
    assert (before[~group] != after[~group]).any()


def test_only_the_population_is_fitted_on() -> None:
    data = _data()
    others_turned = np.where(data.winner, data.labels, 1 - data.labels)
    turned = Labelled(data.scores, others_turned, data.groups, data.winner, data.routes)
    assert (held_out(data, data.winner, "platt") == held_out(turned, data.winner, "platt")).all()


def test_a_route_with_its_own_curve_is_fitted_on_its_own_rows() -> None:
    data, everything = _data(), np.ones(200, dtype=bool)
    own = {"fraud": Curve(method="platt", slope=1.0, intercept=0.0, labels=1, positives=1)}
    served = held_out_as_served(data, everything, "platt", own)
    fraud = data.of_route("fraud")
    assert (served[~fraud] == held_out(data, everything, "platt")[~fraud]).all()
    assert (served[fraud] == held_out(data, fraud, "platt")[fraud]).all()


def test_figures_by_scikit_learn_and_by_hand() -> None:
    data = _data()
    shown = np.where(data.scores > 0, 0.7, 0.2)
    found = figures(data, shown, data.winner, bootstraps=200)
    labels, told = data.labels[data.winner], shown[data.winner]
    assert found["brier"] == pytest.approx(brier_score_loss(labels, told), abs=1e-4)
    # Two values are two bins: the mean gap of each, by its size.
    gaps = [abs(labels[told == p].mean() - p) * (told == p).mean() for p in (0.2, 0.7)]
    assert found["ece"] == pytest.approx(sum(gaps), abs=1e-4)
    assert found["winners"] == data.winner.sum()
    assert found["brier_of_base_rate"] == pytest.approx(labels.var(), abs=1e-4)
    assert found["brier_ci"][0] < found["brier"] < found["brier_ci"][1]


def test_bootstraps_draw_whole_groups() -> None:
    groups = np.array([0, 0, 0, 5, 5, 9])
    for rows in resamples(groups, 20):
        drawn = [int((rows == row).sum()) for row in range(6)]
        assert drawn[0] == drawn[1] == drawn[2]
        assert drawn[3] == drawn[4]
        assert drawn[0] + drawn[3] + drawn[5] == 3


def test_intervals_are_as_wide_as_groups_are_few() -> None:
    data = _data()
    # Everything five times over, in the same groups, says nothing new; counted as rows it would seem to.
    columns: list[Any] = [data.scores, data.labels, data.groups, data.winner, data.routes]
    five = Labelled(*(np.tile(column, 5) for column in columns))
    shown = 1 / (1 + np.exp(-data.scores))
    once = figures(data, shown, data.winner, 300)["brier_ci"]
    again = figures(five, np.tile(shown, 5), np.tile(data.winner, 5), 300)["brier_ci"]
    assert again[1] - again[0] == pytest.approx(once[1] - once[0], rel=0.3)


def test_ranking_is_of_winners() -> None:
    data = _data()
    found = ranking(data, 100)
    assert found["auc"] == pytest.approx(roc_auc_score(data.labels[data.winner], data.scores[data.winner]), abs=1e-4)
    assert found["auc_ci"][0] < found["auc"] < found["auc_ci"][1]
    same = Labelled(data.scores, np.ones(200), data.groups, data.winner, data.routes)
    assert ranking(same, 100) == {"auc": None, "auc_ci": None}


def test_the_slope_s_interval_holds_the_slope_and_a_guess_s_holds_zero() -> None:
    data, everything = _data(), np.ones(200, dtype=bool)
    low, high = slope_interval(data, everything, 60)
    assert 0 < low < fit_platt(data.scores, data.labels).slope < high
    shuffled = np.random.default_rng(1).permutation(data.labels)
    low, high = slope_interval(Labelled(data.scores, shuffled, data.groups, data.winner, data.routes), everything, 60)
    assert low < 0 < high


def test_there_are_folds_enough() -> None:
    # Each group has its own label and all scores are equal: a fit that saw the group would lean towards it.
    labels = (np.arange(FOLDS) % 2).astype(float)
    winner = np.ones(FOLDS, dtype=bool)
    data = Labelled(np.zeros(FOLDS), labels, np.arange(FOLDS), winner, np.array(["billing"] * FOLDS))
    # Leaving a positive out of 5 + 5 leaves 4 + 5: the smoothed base rate is below one half, and the other way.
    assert figures(data, held_out(data, winner, "platt"), winner, 10)["brier"] > 0.25
