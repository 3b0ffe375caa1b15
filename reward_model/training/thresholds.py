"""Accept thresholds that hold a risk: Learn-then-Test with exact binomial bounds (Angelopoulos et al., 2021).

The risk of a threshold is the share of unacceptable answers among the winners that it accepts. Given which winners
are accepted, each is unacceptable independently with that probability, so with n accepted and k of them unacceptable
P(Bin(n, alpha) <= k) is an exact p-value of "the risk is above alpha", whatever n happened to be. Thresholds are
tested from the strictest down, each at the whole delta, and testing ends at the first that is not rejected (fixed
sequence): the chance that the one returned breaks alpha is at most delta. Several buckets share delta (Bonferroni),
so the promise holds for all of them at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Thresholds that may be chosen, strictest first: fixed beforehand, or the test would not be one.
GRID = np.round(np.arange(0.99, 0.0, -0.01), 2)


class Threshold(NamedTuple):
    """What was found: `threshold` None means that the labels support none, and `why` says what is missing."""

    threshold: float | None
    accepted: int
    unacceptable: int
    p_value: float | None
    labels: int
    why: str


def risk_controlled(
    probabilities: ArrayLike, acceptable: ArrayLike, alpha: float, delta: float, grid: ArrayLike = GRID
) -> Threshold:
    """The lowest threshold for which P(risk <= alpha) >= 1 - delta, from winners' probabilities and labels [B].

    Thresholds that accept too few winners to reject anything are passed over without a test: that they are too few is
    known from the scores alone. Raises ValueError for alpha or delta outside (0, 1).
    """
    from scipy.stats import binom

    if not (0 < alpha < 1 and 0 < delta < 1):
        raise ValueError(f"alpha and delta must lie between 0 and 1, not {alpha} and {delta}")
    shown, good = np.asarray(probabilities, dtype=float), np.asarray(acceptable, dtype=bool)
    needed = labels_needed(alpha, delta)
    found: Threshold | None = None
    for threshold in np.asarray(grid, dtype=float):
        accepted = shown >= threshold
        count, bad = int(accepted.sum()), int((accepted & ~good).sum())
        if count < needed:
            continue
        p_value = float(binom.cdf(bad, count, alpha))
        if p_value > delta:
            return found or Threshold(None, count, bad, p_value, len(good), _too_risky(count, bad, threshold, alpha))
        found = Threshold(float(threshold), count, bad, p_value, len(good), "")
    short = f"{len(good)} labelled winners are too few: without one error, {needed} accepted ones are needed"
    return found or Threshold(None, len(good), int((~good).sum()), None, len(good), short)


def by_bucket(
    groups: Mapping[str, tuple[NDArray[np.float64], NDArray[np.bool_]]], alpha: float, delta: float
) -> dict[str, Threshold]:
    """A threshold for each bucket, all of them right together with confidence 1 - delta."""
    return {
        name: risk_controlled(probabilities, acceptable, alpha, delta / len(groups))
        for name, (probabilities, acceptable) in groups.items()
    }


def labels_needed(alpha: float, delta: float) -> int:
    """Accepted labels without one error that the promise needs at the least: (1 - alpha)^n <= delta.

    >>> labels_needed(0.05, 0.05)
    59
    """
    return ceil(log(delta) / log(1 - alpha))


def _too_risky(count: int, bad: int, threshold: float, alpha: float) -> str:
    return (
        f"{bad} of the {count} winners at or above {threshold:.2f} are unacceptable: "
        f"no threshold holds the share at {alpha:g}"
    )
