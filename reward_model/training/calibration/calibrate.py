"""`winnow calibrate`: from labelled replies to `calibration.json`, the probability that one would be sent.

All candidates of a prompt are labelled, but only the winner by score is served, and argmax over n picks from the
upper tail. So two fits compete, one on every labelled candidate and one on the winners alone; both are judged on
winners that they have not seen (whole groups left out). The fit on winners is kept where it has the lower Brier score
and at least 150 winners to stand on; else the fit on candidates. Accept thresholds come from winners in any case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from reward_model.calibration import Calibration, Curve
from reward_model.errors import BadInput
from reward_model.labels import LabelledReply, digest
from reward_model.stopping import ALL_SCORED
from reward_model.training.calibration.cross_validation import (
    FOLDS,
    figures,
    held_out,
    held_out_as_served,
    ranking,
    slope_interval,
)
from reward_model.training.calibration.curves import Method, fit_curve
from reward_model.training.calibration.labelled import Floats, Labelled, Mask, Population, labelled, shared_selection
from reward_model.training.calibration.thresholds import control_risk, labels_needed

# Below this a fitted probability is hardly better than the base rate.
MIN_LABELS = 50
# With fewer winners than this, a fit on them alone is mostly noise, and is reported but not used.
MIN_WINNERS = 150
# Isotonic regression overfits below about a thousand labels (Niculescu-Mizil and Caruana, 2005).
ISOTONIC_LABELS = 1000
# What a route needs for a curve of its own: labels, labels of each kind, and groups to leave out.
ROUTE_LABELS = 100
ROUTE_LABELS_OF_A_KIND = 10
ROUTE_GROUPS = FOLDS

_MEASURED = ("ece", "ece_ci", "brier", "brier_ci")


@dataclass(frozen=True)
class How:
    """What is fitted: the method, curves by route, and the risk that accepted answers may carry.

    Raises BadInput for a risk outside (0, 1).
    """

    method: Literal["platt", "isotonic", "auto"] = "auto"
    by_route: bool = True
    alpha: float = 0.05
    delta: float = 0.05
    least_accepted: int = 0
    bootstraps: int = 1000

    def __post_init__(self) -> None:
        labels_needed(self.alpha, self.delta)

    def method_for(self, labels: int) -> Method:
        """The method, by the number of labels where it is left open."""
        if self.method != "auto":
            return self.method
        return "isotonic" if labels >= ISOTONIC_LABELS else "platt"


def calibrate(
    orm: str,
    replies: Sequence[LabelledReply],
    scores: Floats,
    how: How = How(),
    stopping_rule: str = ALL_SCORED,
    stopped: Mask | None = None,
) -> Calibration:
    """Fit and measure a calibrator for the checkpoint `orm` on labelled replies and their scores by it.

    Under another `stopping_rule`, `stopped` are the replies that it does not let end.

    Raises BadInput for too few labels, labels of one kind only, replies sampled under different policies, or
    a fit in which a higher score means a less acceptable reply.
    """
    selection = shared_selection(replies).model_copy(update={"stopping_rule": stopping_rule})
    data = labelled(replies, scores, stopped)
    _check(data)
    # One method for both, the one that the fewer winners bear: a difference is then the population's.
    shared_method = how.method_for(int(data.winner.sum()))
    compared = {name: _compared(data, name, shared_method, how.bootstraps) for name in ("candidates", "winners")}
    kept: Population = "winners" if _winners_are_better(compared) else "candidates"
    fitted_on = data.population(kept)
    method = how.method_for(int(fitted_on.sum()))
    shared = fit_curve(method, data.scores[fitted_on], data.labels[fitted_on])
    own, routes = route_curves(data, fitted_on, how)
    served = figures(data, held_out_as_served(data, fitted_on, method, own), data.winner, how.bootstraps)
    curves = {route: own.get(route, shared) for route in data.all_routes()}
    story = {"population": kept, **_provenance(replies, data), **_quality(data, fitted_on, method, how)}
    return Calibration(
        **_with_figures(shared, served).model_dump(),
        orm=orm,
        event="acceptable",
        date=datetime.now(UTC).date(),
        selection=selection,
        fitted_on={**story, "compared": compared, "routes": routes},
        by_route=own,
        risk_control=control_risk(data, curves, how.alpha, how.delta, how.least_accepted),
    )


def _quality(data: Labelled, fitted_on: Mask, method: Method, how: How) -> dict[str, Any]:
    """How well the scores rank, the interval of a Platt curve's slope, and what a curve's figures were measured on."""
    slope = slope_interval(data, fitted_on, how.bootstraps) if method == "platt" else None
    measured = "on winners of groups left out of the fit"
    return {**ranking(data, how.bootstraps), "slope_ci": slope, "measured": measured}


def route_curves(data: Labelled, fitted_on: Mask, how: How) -> tuple[dict[str, Curve], dict[str, dict[str, Any]]]:
    """A curve of its own for each route with labels enough, and what is known of every route.

    The other routes use the shared curve, and their entry says why.
    """
    curves: dict[str, Curve] = {}
    known: dict[str, dict[str, Any]] = {}
    for route in data.all_routes():
        rows = fitted_on & data.of_route(route)
        why = _too_little(data, route, rows) if how.by_route else "curves by route were not asked for"
        if not why:
            try:
                curves[route] = _route_curve(data, route, rows, how)
            except BadInput as contradicted:
                why = str(contradicted)
        shown = {"labels": int(rows.sum()), "positives": int(data.labels[rows].sum())}
        known[route] = shown | ({"curve": "shared", "why": why} if why else {"curve": "own"})
    return curves, known


def _route_curve(data: Labelled, route: str, rows: Mask, how: How) -> Curve:
    method = how.method_for(int(rows.sum()))
    curve = fit_curve(method, data.scores[rows], data.labels[rows])
    judged = data.winner & data.of_route(route)
    return _with_figures(curve, figures(data, held_out(data, rows, method), judged, how.bootstraps))


def _too_little(data: Labelled, route: str, rows: Mask) -> str:
    """What the route lacks for a curve of its own; empty where nothing."""
    labels, groups = data.labels[rows], len(np.unique(data.groups[rows]))
    least = int(min(labels.sum(), len(labels) - labels.sum()))
    if len(labels) < ROUTE_LABELS or least < ROUTE_LABELS_OF_A_KIND or groups < ROUTE_GROUPS:
        return (
            f"{len(labels)} labels in {groups} groups, {least} of the rarer kind: {ROUTE_LABELS} in {ROUTE_GROUPS} "
            f"and {ROUTE_LABELS_OF_A_KIND} are the least"
        )
    return "" if (data.winner & data.of_route(route)).any() else "no winner to measure it on"


def _compared(data: Labelled, name: Population, method: Method, bootstraps: int) -> dict[str, Any]:
    """One shared fit, on a population, measured on held-out winners."""
    probabilities = held_out(data, data.population(name), method)
    return {"method": method, **figures(data, probabilities, data.winner, bootstraps)}


def _winners_are_better(compared: Mapping[str, dict[str, Any]]) -> bool:
    enough = compared["winners"]["winners"] >= MIN_WINNERS
    return bool(enough and compared["winners"]["brier"] < compared["candidates"]["brier"])


def _with_figures(curve: Curve, measured: dict[str, Any]) -> Curve:
    return curve.model_copy(update={name: measured[name] for name in _MEASURED})


def _check(data: Labelled) -> None:
    positives = int(data.labels.sum())
    if len(data.labels) < MIN_LABELS:
        raise BadInput(f"{len(data.labels)} labelled replies are too few to calibrate on; {MIN_LABELS} are the least")
    if positives in (0, len(data.labels)):
        raise BadInput("all replies carry the same label; a calibrator needs acceptable and unacceptable ones")
    if len(np.unique(data.groups[data.winner])) < FOLDS:
        raise BadInput(
            f"the labels need at least {FOLDS} groups with a winner: a calibrator is measured on winners of groups "
            "that were left out of its fit"
        )


def _provenance(replies: Sequence[LabelledReply], data: Labelled) -> dict[str, Any]:
    buckets = sorted({reply.bucket for reply in replies})
    chances = sorted({reply.chance for reply in replies if reply.chance is not None})
    return {
        # Not drawn alike: the curve holds, the shares and errors are those of what was looked at.
        **({"chances": [chances[0], chances[-1]]} if len(chances) > 1 else {}),
        "replies": len(replies),
        "prompts": len({reply.prompt_key() for reply in replies}),
        "groups": len(np.unique(data.groups)),
        "winners": int(data.winner.sum()),
        "digest": digest(replies),
        "buckets": {name: sum(reply.bucket == name for reply in replies) for name in buckets},
        "base_rate": {
            "candidates": round(float(data.labels.mean()), 4),
            "winners": round(float(data.labels[data.winner].mean()), 4),
        },
    }
