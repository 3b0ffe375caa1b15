"""The gate of `winnow promote`: is the challenger worse than the champion where a wrong answer costs most?

Both are scored on the same held-out pairs, so that each pair says which of the two was right. The difference of
their accuracies gets a one-sided 95 % bound on either side from a paired bootstrap over groups (Efron and Tibshirani,
1993, ch. 16): pairs of one dialogue are resampled together. A bucket is

- `regressed` when the upper bound is below 0: the challenger is worse, by however little;
- `held` when the lower bound is above -margin: it is not worse by as much as the margin (non-inferiority);
- `unproven` otherwise: the pairs are too few to tell, and the report says about how many would do.

The burden of proof lies with the challenger: in a high-risk bucket only `held` passes. A bootstrap cannot draw what it
has not seen, and a handful of agreeing pairs would prove anything; so each bound counts one more group of average
size that went wholly the other way, as conformal risk control does (Angelopoulos et al., 2024). With no disagreement
at all that asks for 3 / margin groups, the exact binomial's rule of three.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_model.errors import BadInput
from reward_model.labels import Pair, digest
from reward_model.vocabulary import HIGH_RISK

MARGIN = 0.05
DRAWS = 10_000
CONFIDENCE = 0.95
# The normal quantiles of 95 % confidence and of 80 % power, for "how many pairs would do".
_Z_CONFIDENCE, _Z_POWER = 1.6449, 0.8416
# Groups drawn at a time: bounds memory at about 100 MB.
_CHUNK = 4_000_000

Values = NDArray[np.float64]


def compare(
    pairs: Sequence[Pair],
    challenger: NDArray[np.floating[Any]],
    champion: NDArray[np.floating[Any]],
    high_risk: Collection[str] | None = None,
    margin: float = MARGIN,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """The gate's report; scores are [pairs, 2] of (chosen, rejected), ties between replies left out.

    High risk are the pairs that say so and the buckets in `high_risk`: without it those of HIGH_RISK, where there
    are any; with it each must be there, or the challenger is refused. Raises BadInput when no pair is of high risk.
    """
    if margin <= 0:
        raise BadInput(f"the margin must be above 0, not {margin}: no finite number of pairs proves equality")
    buckets = _buckets(pairs, high_risk)
    right = [_right(np.asarray(scores, dtype=np.float64)) for scores in (challenger, champion)]
    same = (np.asarray(challenger) == np.asarray(champion)).all(axis=1)
    judged = {}
    for (name, high), rows in sorted(buckets.items()):
        groups = [pairs[row].group for row in rows]
        found = judge(right[0][rows], right[1][rows], groups, margin, draws, seed, bool(same[rows].all()))
        judged[_title(name, high, buckets)] = {"high_risk": high, **found}
    judged |= {name: _nothing(margin) for name in sorted(set(high_risk or ()) - {name for name, _ in buckets})}
    reasons = [_reason(name, figures, margin) for name, figures in judged.items() if _fails(figures)]
    decided = [row for rows in buckets.values() for row in rows]
    return {
        "passed": not reasons,
        "reasons": reasons,
        "warnings": [_reason(name, f, margin) for name, f in judged.items() if _is_worse_elsewhere(f)],
        "margin": margin,
        "confidence": CONFIDENCE,
        "draws": draws,
        "seed": seed,
        "pairs": len(decided),
        "digest": digest([pairs[row] for row in decided]),
        "overall": _accuracies(right[0][decided], right[1][decided]),
        "by_bucket": judged,
    }


def judge(
    challenger: Values, champion: Values, groups: Sequence[str], margin: float, draws: int, seed: int, same: bool
) -> dict[str, Any]:
    """Figures and verdict of one bucket; `challenger` and `champion` [pairs] are 1, 0.5 or 0 for right, tie, wrong.

    `same`: every score of the two is equal, as of one model with two calibrators, and nothing can have regressed.
    """
    _, of = np.unique(np.asarray(groups), return_inverse=True)
    differences: Values = np.bincount(of, weights=challenger - champion).astype(np.float64)
    sizes: Values = np.bincount(of).astype(np.float64)
    low, high = (0.0, 0.0) if same else bounds(differences, sizes, draws, seed)
    verdict = "regressed" if high < 0 else "held" if low > -margin else "unproven"
    return {
        "verdict": verdict,
        "pairs": len(of),
        "groups": len(sizes),
        **_accuracies(challenger, champion),
        "bounds": [round(low, 4), round(high, 4)],
        "pairs_needed": pairs_needed(differences, sizes, margin) if verdict == "unproven" else None,
    }


def bounds(differences: Values, sizes: Values, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """One-sided 95 % bounds of the accuracy difference, from the sums of differences and the sizes of groups [G].

    Each is a quantile of the bootstrap over the groups and one more, of average size, that went wholly against it.
    """
    unseen = sizes.mean()
    lower, upper = np.append(differences, -unseen), np.append(differences, unseen)
    counts = np.append(sizes, unseen)
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(counts))
    lows, highs = [], []
    for begin in range(0, draws, step):
        drawn = generator.integers(len(counts), size=(min(step, draws - begin), len(counts)))
        total = counts[drawn].sum(axis=1)
        lows.append(lower[drawn].sum(axis=1) / total)
        highs.append(upper[drawn].sum(axis=1) / total)
    low = np.quantile(np.concatenate(lows), 1 - CONFIDENCE)
    return float(low), float(np.quantile(np.concatenate(highs), CONFIDENCE))


def pairs_needed(differences: Values, sizes: Values, margin: float) -> int:
    """About how many pairs show, four times in five, that an equally good challenger is not worse by `margin`.

    They disagree as often as here and come in groups of the same size. The second term pays for the unseen group.
    """
    mean_size = float(sizes.mean())
    spread = float(np.mean(((differences - differences.sum() / sizes.sum() * sizes) / mean_size) ** 2))
    groups = spread * ((_Z_CONFIDENCE + _Z_POWER) / margin) ** 2 + 3 / margin
    return ceil(groups * mean_size)


def _buckets(pairs: Sequence[Pair], high_risk: Collection[str] | None) -> dict[tuple[str, bool], list[int]]:
    """Rows of the pairs that have a winner, by bucket, those of high risk apart from the others."""
    named = set(HIGH_RISK if high_risk is None else high_risk)
    rows: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for row, pair in enumerate(pairs):
        if pair.outcome == "win":
            rows[pair.bucket, pair.risk == "high" or pair.bucket in named].append(row)
    if not high_risk and not any(high for _, high in rows):
        raise BadInput("none of the pairs is of high risk; name the buckets that are, with --high-risk")
    return rows


def _title(name: str, high: bool, buckets: Collection[tuple[str, bool]]) -> str:
    return f"{name} (high risk)" if high and (name, False) in buckets else name


def _right(scores: Values) -> Values:
    """[pairs]: 1 where the chosen reply scores higher, 0.5 where both are equal."""
    return np.where(scores[:, 0] > scores[:, 1], 1.0, np.where(scores[:, 0] == scores[:, 1], 0.5, 0.0))


def _accuracies(challenger: Values, champion: Values) -> dict[str, float]:
    return {
        "challenger": round(float(challenger.mean()), 4),
        "champion": round(float(champion.mean()), 4),
        "difference": round(float((challenger - champion).mean()), 4),
    }


def _nothing(margin: float) -> dict[str, Any]:
    nothing = {"challenger": None, "champion": None, "difference": None, "bounds": None}
    return {
        "high_risk": True,
        "verdict": "unproven",
        "pairs": 0,
        "groups": 0,
        **nothing,
        "pairs_needed": ceil(3 / margin),
    }


def _fails(figures: dict[str, Any]) -> bool:
    return bool(figures["high_risk"]) and figures["verdict"] != "held"


def _is_worse_elsewhere(figures: dict[str, Any]) -> bool:
    return not figures["high_risk"] and figures["verdict"] == "regressed"


def _reason(name: str, figures: dict[str, Any], margin: float) -> str:
    if figures["verdict"] == "regressed":
        return (
            f"{name}: the challenger is worse, {figures['challenger']} against {figures['champion']} "
            f"on {figures['pairs']} pairs"
        )
    return (
        f"{name}: {figures['pairs']} pairs in {figures['groups']} groups do not show that it is less than {margin} "
        f"worse ({figures['challenger']} against {figures['champion']}); were it as good, "
        f"about {figures['pairs_needed']} would"
    )
