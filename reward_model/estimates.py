"""Shares, calibration errors and win rates from labels, weighted if rows were drawn with different chances. Pure.

A row that was drawn with chance c stands for 1/c rows (Horvitz and Thompson, 1952; as a ratio, Hájek, 1971).
"""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
_Z95 = 1.959963984540054


class Share(NamedTuple):
    """A share with its 95 % interval; `value` is None where there is nothing to go by.

    `effective` is the number of equally weighted rows that would say as much (Kish, 1965).
    """

    value: float | None
    ci: list[float]
    rows: int
    effective: float


def wilson(successes: float, trials: float) -> list[float]:
    """95 % score interval of a share (Wilson, 1927); [0, 1] when nothing was tried."""
    if trials == 0:
        return [0.0, 1.0]
    share = successes / trials
    centre = share + _Z95**2 / (2 * trials)
    half = _Z95 * sqrt(share * (1 - share) / trials + _Z95**2 / (4 * trials**2))
    scale = 1 + _Z95**2 / trials
    return [round(max(0.0, (centre - half) / scale), 4), round(min(1.0, (centre + half) / scale), 4)]


def weighted_share(values: Floats, weights: Floats | None = None) -> Share:
    """Weighted mean of `values` in 0..1 [rows], with Wilson's interval at the effective number of rows."""
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    if not len(values) or weights.sum() == 0:
        return Share(None, [0.0, 1.0], len(values), 0.0)
    value = float(np.average(values, weights=weights))
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    return Share(round(value, 4), wilson(value * effective, effective), len(values), round(effective, 1))


def expected_calibration_error(
    probabilities: Floats, outcomes: Floats, bins: int = 10, weights: Floats | None = None
) -> float:
    """Mean |share of positives - mean probability| over equal-width bins, weighted by what is in them.

    Naeini, Cooper and Hauskrecht, 2015.
    """
    weights = np.ones(len(probabilities)) if weights is None else weights
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [
        abs((weights * (outcomes - probabilities))[which == b].sum()) / weights.sum() for b in np.unique(which).tolist()
    ]
    return float(sum(gaps))


def brier(probabilities: Floats, outcomes: Floats, weights: Floats | None = None) -> float:
    """Mean squared difference of probability and outcome (Brier, 1950)."""
    return float(np.average((probabilities - outcomes) ** 2, weights=weights))


def at_equal_length(side: Floats, gap: Floats, won: Floats, weights: Floats | None = None) -> float | None:
    """How often the favoured of two replies would win if both were equally long.

    `side` [rows] is +1 where the first of the two is favoured, -1 where the second is, 0 where neither; `gap` the log
    length of the first less that of the second; `won` 1 where the first was preferred, 0 where the second was, 0.5 for
    a tie. A logistic regression of `won` on both, without intercept because sides carry nothing; the figure is what it
    predicts for the favoured reply at a gap of 0 (Dubois et al., 2024, adapted to pairs). None where nothing is
    favoured or nothing was compared.
    """
    from sklearn.linear_model import LogisticRegression

    weights = np.ones(len(won)) if weights is None else weights
    if not len(won) or not side.any():
        return None
    if len(np.unique(side * (2 * won - 1))) < 2 and abs(2 * won[0] - 1) == 1:
        # Nothing to explain by length: the fit would run off to infinity on the way to 1 or 0.
        return 1.0 if side[0] * (2 * won[0] - 1) > 0 else 0.0
    features = np.stack([side, gap], 1)
    fitted = LogisticRegression(C=np.inf, fit_intercept=False, max_iter=1000)
    labels = np.repeat([1, 0], len(won))
    fitted.fit(np.concatenate([features] * 2), labels, np.concatenate([weights * won, weights * (1 - won)]))
    return round(float(1 / (1 + np.exp(-fitted.coef_[0, 0]))), 4)
