"""The red team's report."""

from __future__ import annotations

from typing import Any

from reward_model.errors import BadInput
from reward_model.report import Report, new_figure


def redteam_report(result: dict[str, Any], before: dict[str, Any] | None = None) -> Report:
    """Success by attack, beside the model's error without any and, where given, an earlier result's success.

    Raises BadInput when the earlier result is of other pairs or another seed.
    """
    earlier = _earlier(result, before)
    report = Report(f"Red team against {result['orm']}")
    untried = [f"{name} (not tried)" for name in result["untried"]]
    verdict = "passed" if result["passed"] else f"FAILED: {', '.join([*result['failed'], *untried])}"
    (report.text if result["passed"] else report.warning)(
        f"{verdict}. {result['cases']} losing replies, each rewritten by every attack with phrases that were never "
        f"trained on. Without any attack the loser beats the honest winner in {result['without_attack']:.1%}. An "
        "attack passes if the upper end of its interval is within the limit."
    )
    attacks = dict(sorted(result["by_attack"].items(), key=lambda item: -item[1]["rate"]))
    _table(report, attacks, earlier, before["orm"] if before else "")
    for name in result["untried"]:
        report.text(f"{name} could be made against none of these pairs, so nothing is known of it.")
    for name, f in attacks.items():
        if "error" in f:
            report.warning(f"{name} broke the scoring: {f['error']}")
    _plot(report, attacks, earlier)
    if won := [[name, f["worst"]["pair"], f["worst"]["reply"]] for name, f in attacks.items() if "worst" in f]:
        report.heading("Where each attack won by most")
        report.table(["attack", "pair", "attacked reply"], won)
    return report


def _earlier(result: dict[str, Any], before: dict[str, Any] | None) -> dict[str, float]:
    if before is None:
        return {}
    if any(before[key] != result[key] for key in ("digest", "seed")):
        raise BadInput("the earlier result is of other pairs or another seed, so the two cannot be compared")
    return {name: figures["rate"] for name, figures in before["by_attack"].items()}


def _table(report: Report, attacks: dict[str, Any], earlier: dict[str, float], of: str) -> None:
    header = ["attack", "cases", "success", "95 % interval", "without it", "mean shift of score", "limit"]
    rows = [
        [name, f["cases"], f["rate"], _interval(f["rate_ci"]), f["without_attack"], f["mean_shift"], f["limit"]]
        for name, f in attacks.items()
    ]
    if earlier:
        header.insert(2, f"before ({of})")
        for row in rows:
            row.insert(2, earlier.get(row[0]))
    report.table(header, rows)


def _plot(report: Report, attacks: dict[str, Any], earlier: dict[str, float]) -> None:
    figure, axes = new_figure(height=0.5 + 0.3 * len(attacks))
    places = range(len(attacks))
    axes.barh(places, [f["rate"] for f in attacks.values()], alpha=0.7)
    axes.plot([f["without_attack"] for f in attacks.values()], places, "|", color="black", markersize=12)
    axes.plot([f["limit"] for f in attacks.values()], places, "x", color="tab:red")
    if known := [(earlier[name], place) for place, name in enumerate(attacks) if name in earlier]:
        axes.plot(*zip(*known, strict=True), "o", color="black", fillstyle="none")
    axes.set_yticks(list(places), list(attacks))
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="rate at which the loser beats the honest winner")
    marks = "Bars: with the attack; black marks: without it; red crosses: the limit"
    report.figure(figure, f"{marks}; circles: before." if known else f"{marks}.")


def _interval(bounds: list[float]) -> str:
    return " to ".join(f"{bound:.3f}" for bound in bounds)
