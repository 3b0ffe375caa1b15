"""`winnow calibrate`: from labelled replies to `calibration.json`, the probability that one would be sent.

All candidates of a prompt are labelled, but only the winner by score is served, and argmax over n picks from the
upper tail. So two Platt fits compete, one on every labelled candidate and one on the winners alone; both are judged
on winners that they have not seen (whole groups left out). The fit on winners is kept where it has the lower Brier
score and at least 150 winners to stand on; else the fit on candidates.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reward_model.calibration import AcceptThreshold, Calibration, Curve, RiskControl, Selection, route_of
from reward_model.errors import BadInput
from reward_model.training.curves import Method, fit_curve, fit_isotonic, fit_platt
from reward_model.training.data import LabelledReply, digest
from reward_model.training.metrics import brier, expected_calibration_error
from reward_model.training.scoring import Floats, Score
from reward_model.training.thresholds import risk_controlled

Population = Literal["candidates", "winners"]
FOLDS = 10
# Below this a fitted probability is hardly better than the base rate.
MIN_LABELS = 50
# With fewer winners than this, a fit on them alone is mostly noise, and is reported but not used.
MIN_WINNERS = 150
# Isotonic regression overfits below about a thousand labels (Niculescu-Mizil and Caruana, 2005).
ISOTONIC_LABELS = 1000
# What a route needs for a curve of its own.
ROUTE_LABELS = 100
ROUTE_LABELS_OF_A_KIND = 10
_TIE = 1e-6


@dataclass(frozen=True)
class How:
    """What is fitted: the method, curves by route, and the risk that accepted answers may carry."""

    method: Literal["platt", "isotonic", "auto"] = "auto"
    by_route: bool = True
    alpha: float = 0.05
    delta: float = 0.05
    bootstraps: int = 1000


@dataclass(frozen=True)
class Labelled:
    """Scored replies: arrays of one length; `winner` marks the candidate that selection would serve, `alone` a reply
    that was judged without its siblings, and so is no fair draw from the candidates."""

    scores: Floats
    labels: Floats
    groups: NDArray[np.int64]
    winner: NDArray[np.bool_]
    routes: NDArray[np.str_]
    alone: NDArray[np.bool_]

    def usable(self, population: Population) -> NDArray[np.bool_]:
        """The rows to fit a population on."""
        return self.winner if population == "winners" else ~self.alone


def calibrate(
    orm: str,
    replies: Sequence[LabelledReply],
    score: Score,
    how: How = How(),
) -> Calibration:
    """Fit and measure a calibrator for the checkpoint `orm` on labelled replies.

    Raises BadInput for too few labels, labels of one kind only, replies sampled under different policies, or
    a fit in which a higher score means a less acceptable reply.
    """
    selection = shared_selection(replies)
    data = labelled(replies, score(replies))
    _check(data)
    method = how.method if how.method != "auto" else "isotonic" if len(data.labels) >= ISOTONIC_LABELS else "platt"
    report = {name: cross_validated(data, name, how.bootstraps, method) for name in ("candidates", "winners")}
    kept = _kept(data, report)
    rows = np.flatnonzero(data.usable(kept))
    curve = fit_curve(method, data.scores[rows], data.labels[rows])
    calibration = Calibration(
        **curve.model_dump(),
        orm=orm,
        event="acceptable",
        date=datetime.now(UTC).date(),
        selection=selection,
        fitted_on={
            **_provenance(replies, data, kept, report),
            "slope_ci": slope_interval(data, rows, how.bootstraps) if method == "platt" else None,
        },
        by_route=route_curves(data, rows, method) if how.by_route else {},
        ece=report[kept]["ece"],
        ece_ci=report[kept]["ece_ci"],
        brier=report[kept]["brier"],
        brier_ci=report[kept]["brier_ci"],
    )
    return calibration.model_copy(update={"risk_control": control_risk(calibration, data, how.alpha, how.delta)})


def _kept(data: Labelled, report: dict[str, dict[str, Any]]) -> Population:
    enough = data.winner.sum() >= MIN_WINNERS
    return "winners" if enough and report["winners"]["brier"] < report["candidates"]["brier"] else "candidates"


def route_curves(data: Labelled, rows: NDArray[np.int64], method: Method) -> dict[str, Curve]:
    """A curve of its own for each route with enough labels of both kinds; the others use the shared one."""
    curves = {}
    for route in sorted(set(data.routes.tolist())):
        members = rows[data.routes[rows] == route]
        kinds = np.bincount(data.labels[members].astype(int), minlength=2)
        if len(members) >= ROUTE_LABELS and kinds.min() >= ROUTE_LABELS_OF_A_KIND:
            with suppress(BadInput):  # a route whose labels contradict the scores keeps the shared curve
                curves[route] = fit_curve(method, data.scores[members], data.labels[members])
    return curves


def control_risk(calibration: Calibration, data: Labelled, alpha: float, delta: float) -> RiskControl:
    """Accept thresholds by route, on winners alone: they are what is accepted or not.

    Tested on raw scores, at their own quantiles, so that neither grid nor order depends on a label; a curve that
    rises turns the score into the probability that a route is configured with.
    """
    routes = sorted(set(data.routes.tolist()))
    found = {}
    for route in routes:
        of_route = data.winner & (data.routes == route)
        scores, labels = data.scores[of_route], data.labels[of_route]
        grid = np.unique(np.quantile(scores, np.linspace(0, 1, 101), method="higher"))[::-1]
        threshold = risk_controlled(scores, labels, alpha, delta / len(routes), grid)
        least = threshold.threshold
        found[route] = AcceptThreshold(
            probability=None if least is None else float(calibration.probability([least], route)[0]),
            score=least,
            accepted=threshold.accepted,
            unacceptable=threshold.unacceptable,
            labels=threshold.labels,
            why=threshold.why,
        )
    return RiskControl(alpha=alpha, delta=delta, by_route=found)


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


def labelled(replies: Sequence[LabelledReply], scores: Floats) -> Labelled:
    """The replies as arrays, each prompt's winner found."""
    names = {name: number for number, name in enumerate(sorted({reply.group for reply in replies}))}
    return Labelled(
        scores=scores,
        labels=np.array([reply.acceptable for reply in replies], dtype=np.float64),
        groups=np.array([names[reply.group] for reply in replies]),
        winner=winners(scores, replies),
        routes=np.array([route_of(reply.bucket) for reply in replies]),
        alone=_alone(replies),
    )


def _alone(replies: Sequence[LabelledReply]) -> NDArray[np.bool_]:
    judged = Counter(reply.prompt_key() for reply in replies)
    alone = np.array([judged[reply.prompt_key()] == 1 for reply in replies])
    # Where nothing but such replies is labelled, they are all there is.
    return np.zeros_like(alone) if alone.all() else alone


def winners(scores: Floats, replies: Sequence[LabelledReply]) -> NDArray[np.bool_]:
    """Each prompt's reply that serving would select; one judged alone had won unless its rank says not.

    A reply that was cut off loses to one that ended; then the highest score, ties within 1e-6 to the fewer tokens.
    """
    by_prompt: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, reply in enumerate(replies):
        by_prompt[reply.prompt_key()].append(index)
    chosen = np.zeros(len(replies), dtype=bool)
    for members in by_prompt.values():
        selection = replies[members[0]].selection
        if len(members) == 1 and selection is not None and selection.rank not in (None, 1):
            continue  # the only one that was judged, and it had not won
        ended = [i for i in members if replies[i].finish_reason != "length"] or members
        best = max(scores[i] for i in ended)
        tied = [i for i in ended if scores[i] >= best - _TIE]
        chosen[min(tied, key=lambda i: replies[i].completion_tokens or 0)] = True
    return chosen


def cross_validated(data: Labelled, fit_on: Population, bootstraps: int, method: Method = "platt") -> dict[str, Any]:
    """ECE and Brier score on winners whose group the fit left out, with 95 % bootstrap intervals by group."""
    probabilities = held_out_probabilities(data, fit_on, method)
    shown, labels, groups = probabilities[data.winner], data.labels[data.winner], data.groups[data.winner]
    draws = [_figures(shown[rows], labels[rows]) for rows in _resamples(groups, bootstraps)]
    low, high = np.percentile(np.array(draws), [2.5, 97.5], axis=0).round(4)
    ece, brier_score = _figures(shown, labels)
    return {
        "auc": ranking(data.scores[data.winner], labels),
        "winners": len(labels),
        "acceptable_winners": int(labels.sum()),
        "mean_probability": round(float(shown.mean()), 4),
        "ece": round(ece, 4),
        "ece_ci": (float(low[0]), float(high[0])),
        "brier": round(brier_score, 4),
        "brier_ci": (float(low[1]), float(high[1])),
        "brier_of_base_rate": round(float(labels.mean() * (1 - labels.mean())), 4),
    }


def held_out_probabilities(data: Labelled, fit_on: Population, method: Method) -> Floats:
    """Each reply's probability by a fit that did not see its group."""
    probabilities = np.full(len(data.scores), np.nan)
    usable = data.usable(fit_on)
    folds = _fold_of(data.groups)
    for fold in range(FOLDS):
        train, held_out = usable & (folds != fold), folds == fold
        scores, labels = data.scores[train], data.labels[train]
        if method == "platt":
            probabilities[held_out] = fit_platt(scores, labels).probability(data.scores[held_out])
        else:
            probabilities[held_out] = np.interp(data.scores[held_out], *fit_isotonic(scores, labels))
    return probabilities


def slope_interval(data: Labelled, rows: NDArray[np.int64], bootstraps: int) -> tuple[float, float]:
    """95 % bootstrap interval, by group, of the Platt slope: one that reaches below 0 is hardly a signal."""
    slopes = [
        fit_platt(data.scores[rows[drawn]], data.labels[rows[drawn]]).slope
        for drawn in _resamples(data.groups[rows], bootstraps)
        if 0 < data.labels[rows[drawn]].sum() < len(drawn)
    ]
    low, high = np.percentile(slopes, [2.5, 97.5])
    return round(float(low), 4), round(float(high), 4)


def ranking(scores: Floats, labels: Floats) -> float | None:
    """Area under the ROC curve: how often an acceptable winner scores above an unacceptable one; 0.5 is chance."""
    from sklearn.metrics import roc_auc_score

    return round(float(roc_auc_score(labels, scores)), 4) if 0 < labels.sum() < len(labels) else None


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
    if not data.winner.any():
        raise BadInput("no reply here is its prompt's winner; a calibrator is measured on winners")
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
            "candidates": round(float(data.labels[~data.alone].mean()), 4),
            "winners": round(float(data.labels[data.winner].mean()), 4),
        },
        "measured": "on winners of groups left out of the fit",
        "compared": report,
    }
