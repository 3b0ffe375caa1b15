"""Figures of a reward model on pairs, each with its interval and its baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import log1p, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_model.training.data import Pair, as_completion

_Z95 = 1.959963984540054


def wilson(successes: float, trials: int) -> list[float]:
    """95 % score interval of a share (Wilson, 1927); [0, 1] when nothing was tried."""
    if trials == 0:
        return [0.0, 1.0]
    share = successes / trials
    centre = share + _Z95**2 / (2 * trials)
    half = _Z95 * sqrt(share * (1 - share) / trials + _Z95**2 / (4 * trials**2))
    scale = 1 + _Z95**2 / trials
    return [round(max(0.0, (centre - half) / scale), 4), round(min(1.0, (centre + half) / scale), 4)]


def pair_figures(pairs: Sequence[Pair], scores: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Accuracy over the pairs that have a winner, by bucket too; `scores` [pairs, 2] of (chosen, rejected).

    Equal scores count half. `longer_wins` is the accuracy of always picking the longer reply, in characters.
    """
    decided = [i for i, pair in enumerate(pairs) if pair.outcome == "win"]
    return {
        "pairs": len(decided),
        "ties": len(pairs) - len(decided),
        **_figures(pairs, scores, decided),
        "by_bucket": figures_by(pairs, scores, lambda pair: pair.bucket),
    }


def figures_by(
    pairs: Sequence[Pair], scores: NDArray[np.floating[Any]], key: Callable[[Pair], str]
) -> dict[str, dict[str, Any]]:
    """The same figures for each value of `key`, by name."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, pair in enumerate(pairs):
        if pair.outcome == "win":
            members[key(pair)].append(i)
    return {name: {"pairs": len(rows), **_figures(pairs, scores, rows)} for name, rows in sorted(members.items())}


def length_controlled(pairs: Sequence[Pair], scores: NDArray[np.floating[Any]]) -> float | None:
    """How often the model would agree with people if the two replies were equally long.

    Each pair counts in both orders, so that sides carry nothing. A logistic regression explains which side people
    preferred by the model's choice (+1, -1) and the gap of log lengths; the figure is the probability of agreement
    that it predicts for a gap of 0 (Dubois et al., 2024, adapted to pairs). None where the model never chooses.
    """
    from sklearn.linear_model import LogisticRegression

    decided = [i for i, pair in enumerate(pairs) if pair.outcome == "win"]
    choice = np.array([np.sign(scores[i, 0] - scores[i, 1]) for i in decided])
    gap = np.array([log1p(_length(pairs[i].chosen)) - log1p(_length(pairs[i].rejected)) for i in decided])
    if not choice.any():
        return None
    if len(np.unique(choice)) < 2:
        # Nothing to explain by length: the fit would run off to infinity on the way to 1 or 0.
        return 1.0 if choice[0] > 0 else 0.0
    features = np.concatenate([np.stack([choice, gap], 1), np.stack([-choice, -gap], 1)])
    fitted = LogisticRegression(C=np.inf, fit_intercept=False, max_iter=1000)
    fitted.fit(features, np.repeat([1, 0], len(decided)))
    return round(float(1 / (1 + np.exp(-fitted.coef_[0, 0]))), 4)


def _figures(pairs: Sequence[Pair], scores: NDArray[np.floating[Any]], rows: list[int]) -> dict[str, Any]:
    if not rows:
        return {"accuracy": None, "accuracy_ci": None, "longer_wins": None}
    right = sum(_half_point(scores[i, 0], scores[i, 1]) for i in rows)
    longer = sum(_half_point(_length(pairs[i].chosen), _length(pairs[i].rejected)) for i in rows)
    return {
        "accuracy": round(right / len(rows), 4),
        "accuracy_ci": wilson(right, len(rows)),
        "longer_wins": round(longer / len(rows), 4),
    }


def _half_point(winner: float, loser: float) -> float:
    return 1.0 if winner > loser else 0.5 if winner == loser else 0.0


def _length(completion: Any) -> int:
    return len(as_completion(completion).text())


def expected_calibration_error(
    probabilities: NDArray[np.float64], outcomes: NDArray[np.float64], bins: int = 10
) -> float:
    """Mean |share of positives - mean probability| over equal-width bins, weighted by their counts.

    Naeini, Cooper and Hauskrecht, 2015.
    """
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [
        (which == b).mean() * abs(outcomes[which == b].mean() - probabilities[which == b].mean())
        for b in np.unique(which)
    ]
    return float(sum(gaps))


def brier(probabilities: NDArray[np.float64], outcomes: NDArray[np.float64]) -> float:
    """Mean squared difference of probability and outcome (Brier, 1950)."""
    return float(np.mean((probabilities - outcomes) ** 2))


def rank_correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> float | None:
    """Spearman's rho, ties by average rank; None where one side does not vary."""
    from scipy.stats import spearmanr

    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    return round(float(spearmanr(left, right).statistic), 4)
