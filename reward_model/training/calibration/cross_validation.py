"""Cross-validates a calibrator: on winners of groups left out of its fit, with bootstraps over groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_model.calibration import Curve
from reward_model.estimates import brier, expected_calibration_error
from reward_model.training.calibration.curves import Method, fit_isotonic, fit_platt
from reward_model.training.calibration.labelled import Floats, Labelled, Mask

FOLDS = 10


def held_out(data: Labelled, fitted_on: Mask, method: Method) -> Floats:
    """Each reply's probability by a fit that did not see its group."""
    probabilities = np.full(len(data.scores), np.nan)
    folds = _fold_of(data.groups)
    for fold in range(FOLDS):
        train, asked = fitted_on & (folds != fold), folds == fold
        scores, labels = data.scores[train], data.labels[train]
        if method == "platt":
            probabilities[asked] = fit_platt(scores, labels).probability(data.scores[asked])
        else:
            probabilities[asked] = np.interp(data.scores[asked], *fit_isotonic(scores, labels))
    return probabilities


def held_out_as_served(data: Labelled, fitted_on: Mask, method: Method, own: Mapping[str, Curve]) -> Floats:
    """The same, with a fit of its own for the routes that have a curve of their own."""
    probabilities = held_out(data, fitted_on, method)
    for route, curve in own.items():
        of_route = data.of_route(route)
        probabilities[of_route] = held_out(data, fitted_on & of_route, curve.method)[of_route]
    return probabilities


def figures(data: Labelled, probabilities: Floats, rows: Mask, bootstraps: int) -> dict[str, Any]:
    """ECE and Brier score of the probabilities on `rows`, with 95 % bootstrap intervals by group."""
    shown, labels = probabilities[rows], data.labels[rows]
    draws = [_two(shown[drawn], labels[drawn]) for drawn in resamples(data.groups[rows], bootstraps)]
    low, high = np.percentile(np.array(draws), [2.5, 97.5], axis=0).round(4).tolist()
    ece, brier_score = _two(shown, labels)
    return {
        "winners": len(labels),
        "acceptable_winners": int(labels.sum()),
        "mean_probability": round(float(shown.mean()), 4),
        "ece": round(ece, 4),
        "ece_ci": (low[0], high[0]),
        "brier": round(brier_score, 4),
        "brier_ci": (low[1], high[1]),
        "brier_of_base_rate": round(float(labels.mean() * (1 - labels.mean())), 4),
    }


def ranking(data: Labelled, bootstraps: int) -> dict[str, Any]:
    """Area under the ROC curve, on winners: how often an acceptable one scores above an unacceptable one.

    0.5 is chance; None where all winners are of one kind. The 95 % interval is a bootstrap by group.
    """
    from sklearn.metrics import roc_auc_score

    scores, labels = data.scores[data.winner], data.labels[data.winner]
    if labels.min() == labels.max():
        return {"auc": None, "auc_ci": None}
    drawn = [rows for rows in resamples(data.groups[data.winner], bootstraps) if 0 < labels[rows].sum() < len(rows)]
    draws = [roc_auc_score(labels[rows], scores[rows]) for rows in drawn]
    return {"auc": round(float(roc_auc_score(labels, scores)), 4), "auc_ci": _interval(draws)}


def slope_interval(data: Labelled, fitted_on: Mask, bootstraps: int) -> tuple[float, float]:
    """95 % bootstrap interval, by group, of the Platt slope: one that reaches below 0 is hardly a signal."""
    scores, labels, groups = data.scores[fitted_on], data.labels[fitted_on], data.groups[fitted_on]
    drawn = [rows for rows in resamples(groups, bootstraps) if 0 < labels[rows].sum() < len(rows)]
    return _interval([fit_platt(scores[rows], labels[rows]).slope for rows in drawn])


def resamples(groups: NDArray[np.int64], count: int, seed: int = 7) -> list[NDArray[np.int64]]:
    """Row numbers of `count` bootstrap samples that draw whole groups."""
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    generator = np.random.default_rng(seed)
    return [
        np.concatenate([members[i] for i in generator.integers(len(members), size=len(members))]) for _ in range(count)
    ]


def _two(probabilities: Floats, labels: Floats) -> tuple[float, float]:
    return expected_calibration_error(probabilities, labels), brier(probabilities, labels)


def _interval(draws: list[float]) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)


def _fold_of(groups: NDArray[np.int64], seed: int = 7) -> NDArray[np.int64]:
    """Fold of each row; a group is in one fold only."""
    order = np.random.default_rng(seed).permutation(int(groups.max()) + 1)
    return np.asarray(order[groups] % FOLDS)
