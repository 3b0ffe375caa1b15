"""The report of a calibrator: what it was fitted on, how far to believe it, what may be accepted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reward_model.calibration import Calibration
from reward_model.training.calibrate import Labelled, held_out_probabilities
from reward_model.training.metrics import wilson
from reward_model.training.report import Report, new_figure


def calibration_report(calibration: Calibration, data: Labelled) -> Report:
    """Reliability of winners that the fit did not see, the fitted curve, and the accept thresholds."""
    report = Report(f"Calibration of {calibration.orm}")
    report.text(
        f"P({calibration.event}): {calibration.method} on {calibration.labels} labels, {calibration.positives} "
        f"positive, of {calibration.fitted_on['population']}; it holds for winners of {calibration.selection.n}, "
        f"{calibration.selection.stopping_rule}."
    )
    _figures(report, calibration)
    report.heading("Reliability")
    population = calibration.fitted_on["population"]
    shown = held_out_probabilities(data, population, calibration.method)[data.winner]
    _reliability(report, shown, data.labels[data.winner])
    _curve(report, calibration, data)
    _thresholds(report, calibration)
    return report


def _figures(report: Report, calibration: Calibration) -> None:
    rows = [
        [name, f["winners"], f["acceptable_winners"], f["auc"], f["ece"], f["brier"], f["brier_of_base_rate"]]
        for name, f in calibration.fitted_on["compared"].items()
    ]
    header = ["fitted on", "winners", "acceptable", "AUC", "ECE", "Brier", "Brier of the base rate"]
    report.table(header, rows, "Measured on winners whose group the fit left out.")


def _reliability(report: Report, shown: NDArray[np.float64], labels: NDArray[np.float64]) -> None:
    figure, axes = new_figure(5.0, 4.0)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    # Bins of equal counts: where all probabilities are small, equal widths would be one bin.
    for members in np.array_split(np.argsort(shown), min(10, max(1, len(shown) // 15))):
        share, (low, high) = labels[members].mean(), wilson(float(labels[members].sum()), len(members))
        axes.errorbar(shown[members].mean(), share, yerr=[[share - low], [high - share]], fmt="o", color="tab:blue")
    axes.set(xlabel="predicted probability", ylabel="share acceptable", xlim=(0, 1), ylim=(0, 1))
    report.figure(
        figure, "Reliability: winners in groups of equal size, with Wilson's 95 % intervals; the line is perfect."
    )


def _curve(report: Report, calibration: Calibration, data: Labelled) -> None:
    figure, axes = new_figure(height=2.8)
    scores = np.linspace(data.scores.min(), data.scores.max(), 200)
    axes.plot(scores, calibration.probability(scores), label="shared")
    for route in calibration.by_route:
        axes.plot(scores, calibration.probability(scores, route), "--", label=route)
    axes.set(xlabel="score", ylabel="probability", ylim=(0, 1))
    axes.legend(frameon=False)
    report.figure(figure, "From score to probability; a dashed line is a route's own curve.")


def _thresholds(report: Report, calibration: Calibration) -> None:
    control = calibration.risk_control
    if control is None:
        return
    report.heading("What may be accepted")
    report.text(
        f"At most {control.alpha:.0%} of the accepted answers unacceptable, in all routes together with confidence "
        f"{1 - control.delta:.0%} (Learn-then-Test, exact binomial bounds)."
    )
    rows = [
        [route, t.probability, t.labels, t.accepted, t.unacceptable, t.why or "-"]
        for route, t in control.by_route.items()
    ]
    report.table(["route", "accept from", "labelled winners", "accepted", "unacceptable among them", "why none"], rows)
