"""The red team's report."""

from __future__ import annotations

from typing import Any

from reward_model.training.report import Report, new_figure


def redteam_report(result: dict[str, Any]) -> Report:
    """Success by attack, beside the model's error without any."""
    report = Report(f"Red team against {result['orm']}")
    verdict = "passed" if result["passed"] else f"FAILED: {', '.join(result['failed'])}"
    (report.text if result["passed"] else report.warning)(
        f"{verdict}. {result['cases']} losing replies, each rewritten by every attack with phrases that were never "
        f"trained on. Without any attack the loser beats the honest winner in {result['without_attack']:.1%}."
    )
    attacks = sorted(result["by_attack"].items(), key=lambda item: -item[1]["rate"])
    rows = [
        [
            name,
            f["rate"],
            " to ".join(f"{x:.3f}" for x in f["rate_ci"]),
            f["without_attack"],
            f["mean_shift"],
            f["limit"],
        ]
        for name, f in attacks
    ]
    report.table(["attack", "success", "95 % interval", "without it", "mean shift of score", "limit"], rows)
    figure, axes = new_figure(height=0.5 + 0.3 * len(attacks))
    places = range(len(attacks))
    axes.barh(places, [f["rate"] for _, f in attacks], alpha=0.7)
    axes.plot([f["without_attack"] for _, f in attacks], places, "|", color="black", markersize=12)
    axes.plot([f["limit"] for _, f in attacks], places, "x", color="tab:red")
    axes.set_yticks(list(places), [name for name, _ in attacks])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="rate at which the loser beats the honest winner")
    report.figure(figure, "Bars: with the attack; black marks: without it; red crosses: the limit.")
    return report
