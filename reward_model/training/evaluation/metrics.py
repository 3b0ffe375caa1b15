"""Figures of a reward model on pairs, each with its interval and its baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import log1p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_model.estimates import at_equal_length, wilson
from reward_model.labels import Pair, as_completion


def pair_figures(pairs: Sequence[Pair], scores: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Accuracy over the pairs that have a winner, by bucket too; `scores` [pairs, 2] of (chosen, rejected).

    Equal scores count half; intervals are clustered by group. `longer_wins` is the accuracy of always picking the
    longer reply, in characters.
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

    See `at_equal_length`: each pair counts in both orders, so that sides carry nothing.
    """
    decided = [i for i, pair in enumerate(pairs) if pair.outcome == "win"]
    choice = np.array([np.sign(scores[i, 0] - scores[i, 1]) for i in decided])
    gap = np.array([log1p(_length(pairs[i].chosen)) - log1p(_length(pairs[i].rejected)) for i in decided])
    sides, won = np.concatenate([choice, -choice]), np.repeat([1.0, 0.0], len(decided))
    return at_equal_length(sides, np.concatenate([gap, -gap]), won)


def _figures(pairs: Sequence[Pair], scores: NDArray[np.floating[Any]], rows: list[int]) -> dict[str, Any]:
    if not rows:
        return {"accuracy": None, "accuracy_ci": None, "longer_wins": None}
    right = np.array([_half_point(scores[i, 0], scores[i, 1]) for i in rows])
    longer = sum(_half_point(_length(pairs[i].chosen), _length(pairs[i].rejected)) for i in rows)
    return {
        "accuracy": round(float(right.mean()), 4),
        "accuracy_ci": clustered_interval(right, [pairs[i].group for i in rows]),
        "longer_wins": round(longer / len(rows), 4),
    }


def clustered_interval(values: NDArray[np.floating[Any]], groups: Sequence[str]) -> list[float]:
    """95 % interval of the mean of `values` in 0..1, of which those of one group (a dialogue) are not independent.

    Wilson's at the effective number of values: their number over Kish's (1965) design effect. Where all are equal, and
    no such effect can be seen, a group counts as one.
    """
    if not len(values):
        return wilson(0, 0)
    mean = float(values.mean())
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(group_of, weights=values - mean)
    spread = float(((values - mean) ** 2).sum())
    effect = max(1.0, float((sums**2).sum()) / spread) if spread > 0 else len(values) / len(sums)
    return wilson(mean * len(values) / effect, len(values) / effect)


def _half_point(winner: float, loser: float) -> float:
    return 1.0 if winner > loser else 0.5 if winner == loser else 0.0


def _length(completion: Any) -> int:
    return len(as_completion(completion).text())


def acceptance_figures(labels: Sequence[bool], scores: Sequence[float]) -> dict[str, Any]:
    """How well scores [B] say which replies would be sent.

    AUC over all prompts (None for labels of one kind), the Brier score of sigmoid(score), and the share on the right
    side of zero, beside that of always guessing the commoner label.
    """
    from sklearn.metrics import roc_auc_score

    good, shown = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    share = float(good.mean())
    return {
        "replies": len(good),
        "acceptable": int(good.sum()),
        "auc": round(float(roc_auc_score(good, shown)), 4) if 0 < share < 1 else None,
        "brier": round(float(((1 / (1 + np.exp(-shown)) - good) ** 2).mean()), 4),
        "right_at_zero": round(float(((shown > 0) == good).mean()), 4),
        "majority": round(max(share, 1 - share), 4),
    }


def rank_correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> float | None:
    """Spearman's rho, ties by average rank; None where one side does not vary."""
    from scipy.stats import spearmanr

    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    return round(float(spearmanr(left, right).statistic), 4)
