"""The report of a calibrator: its data, its calibration error, and the thresholds that it supports."""

from __future__ import annotations

import numpy as np

from reward_model.calibration import Calibration
from reward_model.estimates import wilson
from reward_model.report import Report, new_figure
from reward_model.training.calibration.cross_validation import held_out_as_served
from reward_model.training.calibration.labelled import Floats, Labelled


def calibration_report(calibration: Calibration, data: Labelled) -> Report:
    """Reliability of winners that the fit did not see, the fitted curves, and the accept thresholds."""
    fitted_on = calibration.fitted_on
    report = Report(f"Calibration of {calibration.orm}")
    report.text(
        f"P({calibration.event}): {calibration.method} on {calibration.labels} labels, {calibration.positives} "
        f"positive, of {fitted_on['population']}; it holds for winners of {calibration.selection.n}, "
        f"{calibration.selection.stopping_rule}. {fitted_on['replies']} replies to {fitted_on['prompts']} prompts in "
        f"{fitted_on['groups']} groups were judged; {fitted_on['winners']} of them are winners."
    )
    for warning in _warnings(calibration):
        report.warning(warning)
    _figures(report, calibration)
    report.heading("Reliability")
    usable = data.population(fitted_on["population"])
    shown = held_out_as_served(data, usable, calibration.method, calibration.by_route)[data.winner]
    _reliability(report, shown, data.labels[data.winner])
    _curves(report, calibration, data)
    _routes(report, calibration)
    _thresholds(report, calibration)
    return report


def _warnings(calibration: Calibration) -> list[str]:
    known = calibration.fitted_on
    served = known["compared"][known["population"]]
    auc, slope = known["auc_ci"], known["slope_ci"]
    drawn = known.get("chances")
    said = {
        f"The replies were judged with chances of {_interval(drawn)}: the curve holds, "
        "but base rate, ECE, Brier and thresholds are those of what was looked at, not of all answers.": drawn,
        f"The slope's interval, {_interval(slope)}, reaches below zero: the score is hardly a signal.": slope
        and slope[0] <= 0,
        f"The AUC's interval, {_interval(auc)}, holds 0.5: winners are not ranked better than by chance.": auc
        and auc[0] <= 0.5,
        "The Brier score is no better than that of always saying the base rate.": calibration.brier is not None
        and calibration.brier >= served["brier_of_base_rate"],
    }
    return [warning for warning, holds in said.items() if holds]


def _figures(report: Report, calibration: Calibration) -> None:
    known = calibration.fitted_on
    rows = [
        [
            f"{name} (kept)" if name == known["population"] else name,
            figures["method"],
            figures["winners"],
            figures["acceptable_winners"],
            figures["mean_probability"],
            _and_interval(figures["ece"], figures["ece_ci"]),
            _and_interval(figures["brier"], figures["brier_ci"]),
            figures["brier_of_base_rate"],
        ]
        for name, figures in known["compared"].items()
    ]
    header = ["fitted on", "method", "winners", "acceptable", "mean", "ECE", "Brier", "Brier of the base rate"]
    report.table(header, rows, "Measured on winners whose group the fit left out; 95 % bootstrap intervals by group.")
    report.text(
        f"As served, with the routes' own curves: ECE {_and_interval(calibration.ece, calibration.ece_ci)}, Brier "
        f"{_and_interval(calibration.brier, calibration.brier_ci)}. AUC of the winners' scores: "
        f"{_and_interval(known['auc'], known['auc_ci'])}."
    )


def _reliability(report: Report, shown: Floats, labels: Floats) -> None:
    figure, axes = new_figure(5.0, 4.0)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    # Bins of equal counts: where all probabilities are small, equal widths would be one bin.
    for members in np.array_split(np.argsort(shown), min(10, max(1, len(shown) // 15))):
        share, (low, high) = labels[members].mean(), wilson(float(labels[members].sum()), len(members))
        axes.plot([shown[members].mean()] * 2, [low, high], color="tab:blue")
        axes.plot([shown[members].mean()], [share], "o", color="tab:blue")
    axes.set(xlabel="predicted probability", ylabel="share acceptable", xlim=(0, 1), ylim=(0, 1))
    report.figure(
        figure, "Reliability: winners in groups of equal size, with Wilson's 95 % intervals; the line is perfect."
    )


def _curves(report: Report, calibration: Calibration, data: Labelled) -> None:
    figure, axes = new_figure(height=2.8)
    scores = np.linspace(data.scores.min(), data.scores.max(), 200)
    axes.plot(scores, calibration.probability(scores), label="shared")
    for route in calibration.by_route:
        axes.plot(scores, calibration.probability(scores, route), "--", label=route)
    axes.set(xlabel="score", ylabel="probability", ylim=(0, 1))
    axes.legend(frameon=False)
    report.figure(figure, "From score to probability; a dashed line is a route's own curve.")


def _routes(report: Report, calibration: Calibration) -> None:
    report.heading("By route")
    rows = []
    for route, known in calibration.fitted_on["routes"].items():
        own = calibration.by_route.get(route)
        figures = (_and_interval(own.ece, own.ece_ci), _and_interval(own.brier, own.brier_ci)) if own else (None, None)
        rows.append([route, known["labels"], known["positives"], known["curve"], *figures, known.get("why")])
    report.table(["route", "labels", "acceptable", "curve", "ECE", "Brier", "why not its own"], rows)


def _thresholds(report: Report, calibration: Calibration) -> None:
    control = calibration.risk_control
    if control is None:
        return
    report.heading("What may be accepted")
    report.text(
        f"At most {control.alpha:.1%} of the accepted answers unacceptable, in all routes together with confidence "
        f"{1 - control.delta:.1%} (Learn-then-Test, exact binomial bounds)."
    )
    rows = [
        [route, t.probability, t.labels, t.accepted, t.unacceptable, t.needed, t.more, t.why or None]
        for route, t in control.by_route.items()
    ]
    header = ["route", "accept from", "labelled winners", "accepted", "unacceptable", "needed", "more", "why none"]
    report.table(
        header,
        rows,
        "needed: accepted winners, all acceptable, that carry a threshold; more: at least so many are missing.",
    )


def _and_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    return "–" if value is None else f"{value:.3f} ({_interval(interval)})"


def _interval(interval: tuple[float, float] | None) -> str:
    return "unknown" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
