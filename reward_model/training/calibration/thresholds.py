"""Accept thresholds that hold a risk: Learn-then-Test with exact binomial bounds (Angelopoulos et al., 2021).

The risk of a threshold is the share of unacceptable answers among the winners that it accepts. How many winners it
accepts is chance, but given that n of them are, they are n independent draws from the accepted ones, each unacceptable
with a probability that is the risk. So with k of them unacceptable P(Bin(n, alpha) <= k) is a p-value of "the risk is
above alpha" for every n, hence whatever n happened to be; that of n = 0 is 1. Thresholds are tested from the strictest
down, each at the whole delta, and testing ends at the first that is not rejected (fixed sequence): to return one that
breaks alpha, the first such on the way must have been rejected, which happens with probability delta at most. Several
routes share delta (Bonferroni), so the promise holds for all of them at once.

The thresholds tried on winners are quantiles of their own scores: no label moves them. They are exact where a higher
score does not mean a worse answer, for then the winner that stands at the threshold is no better than those above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward_model.calibration import AcceptThreshold, Curve, RiskControl
from reward_model.errors import BadInput
from reward_model.selection import TIE
from reward_model.training.calibration.labelled import Floats, Labelled


class Threshold(NamedTuple):
    """What was found: `threshold` None means that the labels support none, and `why` says what is missing.

    `more`: at least so many more accepted winners, all of them acceptable, would support one.
    """

    threshold: float | None
    accepted: int
    unacceptable: int
    p_value: float | None
    more: int | None
    why: str


def risk_controlled(
    scores: ArrayLike, acceptable: ArrayLike, alpha: float, delta: float, grid: ArrayLike, least_accepted: int = 0
) -> Threshold:
    """The lowest threshold of `grid` for which P(risk <= alpha) >= 1 - delta, from independent winners [B].

    `grid` and `least_accepted` must not depend on the labels. Thresholds that accept fewer winners than that, or too
    few to reject anything, are passed over without a test: that they are too few is known without the labels. The
    strictest that is tested decides whether there is any: of `labels_needed` winners it forgives none, of more it
    forgives some. Raises BadInput as `labels_needed` does.
    """
    from scipy.stats import binom

    shown, good = np.asarray(scores, dtype=float), np.asarray(acceptable, dtype=bool)
    needed = labels_needed(alpha, delta)
    steps = np.sort(np.asarray(grid, dtype=float))[::-1]
    accepted = shown >= steps[:, None]
    counts, bad = accepted.sum(1), (accepted & ~good).sum(1)
    tested = np.flatnonzero(counts >= max(needed, least_accepted))
    p_values = binom.cdf(bad[tested], counts[tested], alpha)
    passed = int(np.argmax([*(p_values > delta), True]))  # how many before the first that fails
    if passed:
        at = tested[passed - 1]
        return Threshold(float(steps[at]), int(counts[at]), int(bad[at]), float(p_values[passed - 1]), None, "")
    more = max(1, int(min([needed, *(_needed(alpha, delta, bad) - counts)])))
    if not len(tested):
        least = max(needed, least_accepted)
        why = f"{len(good)} labelled winners are too few: {least} accepted ones without one error are the least"
        return Threshold(None, len(good), int((~good).sum()), None, more, why)
    at = tested[0]
    why = (
        f"{bad[at]} of the {counts[at]} best-scored winners are unacceptable: too many to say that "
        f"no more than {alpha:g} are"
    )
    return Threshold(None, int(counts[at]), int(bad[at]), float(p_values[0]), more, why)


def labels_needed(alpha: float, delta: float, unacceptable: int = 0) -> int:
    """Accepted labels that the promise needs when so many of them are unacceptable: P(Bin(n, alpha) <= k) <= delta.

    >>> labels_needed(0.05, 0.05)
    59

    Raises BadInput for an alpha or delta outside (0, 1).
    """
    if not (0 < alpha < 1 and 0 < delta < 1):
        raise BadInput(f"alpha and delta lie between 0 and 1, not {alpha} and {delta}")
    return int(_needed(alpha, delta, np.array([unacceptable]))[0])


def _needed(alpha: float, delta: float, unacceptable: NDArray[np.int64]) -> NDArray[np.int64]:
    """The draws within which one error more than `unacceptable` comes with probability 1 - delta."""
    from scipy.stats import nbinom

    errors = unacceptable + 1
    return np.asarray(errors + nbinom.ppf(1 - delta, errors, alpha), dtype=np.int64)


def control_risk(
    data: Labelled, curves: Mapping[str, Curve], alpha: float, delta: float, least_accepted: int = 0
) -> RiskControl:
    """Accept thresholds by route, right together with confidence 1 - delta, on winners alone: only they are accepted.

    `curves` holds each route's curve, which turns a threshold on scores into the probability that a route is
    configured with. One winner a group counts, drawn by lot: paraphrases of a prompt are not independent.
    """
    share = delta / len(curves)
    found = {route: _of_route(data, route, curve, alpha, share, least_accepted) for route, curve in curves.items()}
    return RiskControl(alpha=alpha, delta=delta, by_route=found)


def _of_route(
    data: Labelled, route: str, curve: Curve, alpha: float, delta: float, least_accepted: int
) -> AcceptThreshold:
    rows = one_a_group(np.flatnonzero(data.winner & (data.routes == route)), data.groups)
    scores, good = data.scores[rows], data.labels[rows] > 0.5
    grid = np.unique(np.quantile(scores, np.linspace(0, 1, 101), method="higher")) if len(scores) else scores
    found = risk_controlled(scores, good, alpha, delta, grid, least_accepted)
    probability = None if found.threshold is None else as_probability(curve, found.threshold, grid)
    accepted, unacceptable, score, why = found.accepted, found.unacceptable, None, found.why
    if probability is not None:
        kept = curve.on(scores) >= probability
        accepted, unacceptable, score = int(kept.sum()), int((kept & ~good).sum()), float(scores[kept].min())
    elif not why:
        why = "the curve is flat from the scores that may be accepted down: no probability sets them apart"
    return AcceptThreshold(
        probability=probability,
        score=score,
        accepted=accepted,
        unacceptable=unacceptable,
        labels=len(rows),
        needed=labels_needed(alpha, delta),
        more=found.more,
        why=why,
    )


def as_probability(curve: Curve, least: float, grid: Floats) -> float | None:
    """The lowest probability of a score on the grid that no score below `least` has; None where there is none.

    An isotonic curve has flat parts: where `least` stands on one, scores below it have its probability too, and the
    next step up is taken instead.
    """
    steps = curve.on(grid[grid >= least])
    above = steps[steps > curve.on([least - TIE])[0]]
    return float(above.min()) if len(above) else None


def one_a_group(rows: NDArray[np.int64], groups: NDArray[np.int64], seed: int = 7) -> NDArray[np.int64]:
    """One row of each group, by lot."""
    shuffled = np.random.default_rng(seed).permutation(rows)
    return np.sort(shuffled[np.unique(groups[shuffled], return_index=True)[1]])
