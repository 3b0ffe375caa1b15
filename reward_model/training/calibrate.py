"""`winnow calibrate`: from labelled replies to `calibration.json`, the probability that one would be sent.

All candidates of a prompt are labelled, but only the winner by score is served, and argmax over n picks from the
upper tail. So two Platt fits compete, one on every labelled candidate and one on the winners alone; both are judged
on winners that they have not seen (whole groups left out). The fit on winners is kept where it has the lower Brier
score and at least 150 winners to stand on; else the fit on candidates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reward_model.calibration import Calibration, Selection
from reward_model.checkpoint import LoadedModel
from reward_model.errors import BadInput
from reward_model.training.data import LabelledReply, as_completion, digest
from reward_model.training.evaluate import score_sequences
from reward_model.training.metrics import brier, expected_calibration_error

Floats = NDArray[np.float64]
Population = Literal["candidates", "winners"]
FOLDS = 10
# Below this a fitted probability is hardly better than the base rate.
MIN_LABELS = 50
# With fewer winners than this, a fit on them alone is mostly noise, and is reported but not used.
MIN_WINNERS = 150
_TIE = 1e-6


class Platt(NamedTuple):
    """p = 1 / (1 + exp(-(slope * score + intercept)))."""

    slope: float
    intercept: float

    def probability(self, scores: Floats) -> Floats:
        """Probability of the event for each score."""
        return np.asarray(1 / (1 + np.exp(-np.clip(self.slope * scores + self.intercept, -500, 500))))


@dataclass(frozen=True)
class Labelled:
    """Scored replies: arrays of one length; `winner` marks the candidate that selection would serve."""

    scores: Floats
    labels: Floats
    groups: NDArray[np.int64]
    winner: NDArray[np.bool_]


def calibrate(model: LoadedModel, replies: Sequence[LabelledReply], bootstraps: int = 1000) -> Calibration:
    """Fit and measure a calibrator for `model` on labelled replies.

    Raises BadInput for too few labels, labels of one kind only, replies sampled under different policies, or
    a fit in which a higher score means a less acceptable reply.
    """
    selection = shared_selection(replies)
    data = score_labelled(model, replies)
    _check(data)
    report = {name: cross_validated(data, name, bootstraps) for name in ("candidates", "winners")}
    enough = data.winner.sum() >= MIN_WINNERS
    kept = "winners" if enough and report["winners"]["brier"] < report["candidates"]["brier"] else "candidates"
    rows = np.flatnonzero(data.winner) if kept == "winners" else np.arange(len(data.labels))
    labels = data.labels[rows]
    fit = fit_platt(data.scores[rows], labels)
    if fit.slope <= 0:
        raise BadInput(
            f"the fitted slope is {fit.slope:.3f}: a higher score would mean a less acceptable reply. "
            "These labels and this model disagree; a calibrator cannot mend that"
        )
    return Calibration(
        orm=model.id,
        method="platt",
        event="acceptable",
        slope=fit.slope,
        intercept=fit.intercept,
        labels=len(labels),
        positives=int(labels.sum()),
        date=datetime.now(UTC).date(),
        selection=selection,
        fitted_on={
            **_provenance(replies, data, kept, report),
            "slope_ci": slope_interval(data, rows, bootstraps),
        },
        ece=report[kept]["ece"],
        ece_ci=report[kept]["ece_ci"],
        brier=report[kept]["brier"],
        brier_ci=report[kept]["brier_ci"],
    )


def shared_selection(replies: Sequence[LabelledReply]) -> Selection:
    """The one selection policy behind all the replies; BadInput when they differ or say nothing of it."""
    seen = {(r.selection.n, r.selection.temperature, r.selection.policy) if r.selection else None for r in replies}
    if not replies or None in seen or len(seen) != 1:
        raise BadInput(
            "every labelled reply must carry the same selection (n, temperature, policy): a "
            f"probability holds under one policy only; found {sorted(map(str, seen))}"
        )
    n, temperature, policy = next(key for key in seen if key)
    return Selection(n=n, stopping_rule="all_scored", temperature=temperature, policy=policy)


def score_labelled(model: LoadedModel, replies: Sequence[LabelledReply]) -> Labelled:
    """Score the replies through the serving format and find each prompt's winner."""
    formatter = model.formatter
    sequences = [
        formatter.prompt_ids(reply.prompt) + formatter.completion_ids(as_completion(reply.completion))
        for reply in replies
    ]
    scores = score_sequences(model, sequences).astype(np.float64)
    names = sorted({reply.group for reply in replies})
    return Labelled(
        scores=scores,
        labels=np.array([reply.acceptable for reply in replies], dtype=np.float64),
        groups=np.array([names.index(reply.group) for reply in replies]),
        winner=winners(scores, replies),
    )


def winners(scores: Floats, replies: Sequence[LabelledReply]) -> NDArray[np.bool_]:
    """Each prompt's reply that serving would select.

    A reply that was cut off loses to one that ended; then the highest score, ties within 1e-6 to the fewer tokens.
    """
    by_prompt: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, reply in enumerate(replies):
        by_prompt[reply.prompt_key()].append(index)
    chosen = np.zeros(len(replies), dtype=bool)
    for members in by_prompt.values():
        ended = [i for i in members if replies[i].finish_reason != "length"] or members
        best = max(scores[i] for i in ended)
        tied = [i for i in ended if scores[i] >= best - _TIE]
        chosen[min(tied, key=lambda i: replies[i].completion_tokens or 0)] = True
    return chosen


def fit_platt(scores: Floats, labels: Floats) -> Platt:
    """Logistic regression of smoothed labels on the score (Platt, 1999; Lin, Lin and Weng, 2007).

    The targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2) keep a separable set from an infinite slope. A soft
    target t is given to scikit-learn as one positive of weight t and one negative of weight 1 - t.
    """
    from sklearn.linear_model import LogisticRegression

    positives = labels.sum()
    high, low = (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2)
    targets = np.where(labels > 0.5, high, low)
    regression = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    regression.fit(
        np.concatenate([scores, scores])[:, None],
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    return Platt(float(regression.coef_[0, 0]), float(regression.intercept_[0]))


def cross_validated(data: Labelled, fit_on: Population, bootstraps: int) -> dict[str, Any]:
    """ECE and Brier score on winners whose group the fit left out, with 95 % bootstrap intervals by group."""
    probabilities = np.full(len(data.scores), np.nan)
    usable = data.winner if fit_on == "winners" else np.ones(len(data.scores), dtype=bool)
    folds = _fold_of(data.groups)
    for fold in range(FOLDS):
        train, held_out = usable & (folds != fold), folds == fold
        probabilities[held_out] = fit_platt(data.scores[train], data.labels[train]).probability(data.scores[held_out])
    shown, labels, groups = probabilities[data.winner], data.labels[data.winner], data.groups[data.winner]
    draws = [_figures(shown[rows], labels[rows]) for rows in _resamples(groups, bootstraps)]
    low, high = np.percentile(np.array(draws), [2.5, 97.5], axis=0).round(4)
    ece, brier_score = _figures(shown, labels)
    return {
        "winners": len(labels),
        "acceptable_winners": int(labels.sum()),
        "mean_probability": round(float(shown.mean()), 4),
        "ece": round(ece, 4),
        "ece_ci": (float(low[0]), float(high[0])),
        "brier": round(brier_score, 4),
        "brier_ci": (float(low[1]), float(high[1])),
        "brier_of_base_rate": round(float(labels.mean() * (1 - labels.mean())), 4),
    }


def slope_interval(data: Labelled, rows: NDArray[np.int64], bootstraps: int) -> tuple[float, float]:
    """95 % bootstrap interval, by group, of the Platt slope: one that reaches below 0 is hardly a signal."""
    slopes = [
        fit_platt(data.scores[rows[drawn]], data.labels[rows[drawn]]).slope
        for drawn in _resamples(data.groups[rows], bootstraps)
        if 0 < data.labels[rows[drawn]].sum() < len(drawn)
    ]
    low, high = np.percentile(slopes, [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)


def _figures(probabilities: Floats, labels: Floats) -> tuple[float, float]:
    return expected_calibration_error(probabilities, labels), brier(probabilities, labels)


def _fold_of(groups: NDArray[np.int64], seed: int = 7) -> NDArray[np.int64]:
    """Fold of each row; a group is in one fold only."""
    order = np.random.default_rng(seed).permutation(int(groups.max()) + 1)
    return np.asarray(order[groups] % FOLDS)


def _resamples(groups: NDArray[np.int64], count: int, seed: int = 7) -> list[NDArray[np.int64]]:
    """Row numbers of `count` bootstrap samples that draw whole groups."""
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    generator = np.random.default_rng(seed)
    return [
        np.concatenate([members[i] for i in generator.integers(len(members), size=len(members))]) for _ in range(count)
    ]


def _check(data: Labelled) -> None:
    positives = int(data.labels.sum())
    if len(data.labels) < MIN_LABELS:
        raise BadInput(f"{len(data.labels)} labelled replies are too few to calibrate on; {MIN_LABELS} are the least")
    if positives in (0, len(data.labels)):
        raise BadInput("all replies carry the same label; a calibrator needs acceptable and unacceptable ones")
    if len(np.unique(data.groups)) < FOLDS:
        raise BadInput(f"the labels need at least {FOLDS} groups, to measure on groups that were left out")


def _provenance(
    replies: Sequence[LabelledReply], data: Labelled, kept: str, report: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    buckets = sorted({reply.bucket for reply in replies})
    return {
        "population": kept,
        "replies": len(replies),
        "prompts": int(data.winner.sum()),
        "digest": digest(replies),
        "buckets": {name: sum(reply.bucket == name for reply in replies) for name in buckets},
        "base_rate": {
            "candidates": round(float(data.labels.mean()), 4),
            "winners": round(float(data.labels[data.winner].mean()), 4),
        },
        "measured": "on winners of groups left out of the fit",
        "compared": report,
    }
