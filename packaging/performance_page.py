"""Writes the tables and plots of docs/explanation/performance.md from what `make bench` measured.

`--check` writes nothing and fails if the tables are not current.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.bench import deadline, end_to_end, gateway, scoring

DOCS = Path(__file__).parents[1] / "docs"
MEASURED = DOCS / "reports" / "bench"
CALIBRATION = DOCS.parent / "reward_model" / "bundled" / "winnow-orm" / "3" / "calibration.json"
END_TO_END = ("end_to_end", "end_to_end_160", "end_to_end_long", "end_to_end_interval")


def tables() -> dict[str, str]:
    """Every table by name; a measurement that has not been made has none."""
    written = {}
    if measured := _read("gateway"):
        written["gateway"] = gateway.table(measured)
    if measured := _read("scoring"):
        written["scoring"] = scoring.table(measured, measured["machine_bf16_gflops"])
    for name in END_TO_END:
        if measured := _read(name):
            written[name] = f"{end_to_end.table(measured)}\n\n{_adaptive(measured)}"
    if measured := _read("deadline"):
        written["deadline"] = deadline.table(measured)
    written["stopping"] = _stopping(json.loads(CALIBRATION.read_text()))
    return written


def current(page: str) -> str:
    """The page with current tables."""
    for name, table in tables().items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        # A function, so that no backslash of a table is read as an escape.
        replacement = f"{begin}\n{table}\n{end}"
        page = re.sub(f"{begin}.*?{end}", lambda _: replacement, page, flags=re.DOTALL)  # noqa: B023
    return page


def _adaptive(measured: Mapping[str, Any]) -> str:
    loss, share = measured["score_loss"], measured["tokens_over_fixed"]
    return (
        f"{measured['rounds']} prompts, at most {measured['max_tokens']} tokens. Adaptive samples {share:.2f} of the "
        f"tokens; its winners' mean score is {abs(loss):.2f} standard deviations (over prompts) "
        f"{'lower' if loss > 0 else 'higher'}."
    )


def _stopping(calibration: Mapping[str, Any]) -> str:
    rows = [
        "| stopping rule | tokens | winner's score (std. dev.) | highest score (std. dev.) | same winner "
        "| mean probability | acceptable winners | winners cut by length |",
        "|---|---|---|---|---|---|---|---|",
    ]
    first: Mapping[str, Any] = next(iter(calibration["by_stopping_rule"].values()))["fitted_on"]["trade_off"]
    whole = {
        "tokens": 1.0,
        "loss": 0.0,
        "loss_of_best": 0.0,
        "agreement": 1.0,
        "acceptable": first["acceptable_of_all"],
        "cut": first["cut_of_all"],
    }
    rules = {"all_scored": (whole, calibration)}
    rules |= {name: (own["fitted_on"]["trade_off"], own) for name, own in calibration["by_stopping_rule"].items()}
    for name, (traded, own) in rules.items():
        probability = own["fitted_on"]["compared"]["winners"]["mean_probability"]
        rows.append(
            f"| `{name}` | {traded['tokens']:.2f} | {0 - traded['loss']:+.2f} | {0 - traded['loss_of_best']:+.2f} "
            f"| {traded['agreement']:.2f} | {probability:.3f} | {traded['acceptable']:.3f} | {traded['cut']:.2f} |"
        )
    return "\n".join(rows)


def plots() -> dict[str, Any]:
    """Figures by the name of their file."""
    drawn = {}
    if measured := _read("gateway"):
        drawn["gateway"] = _gateway_plot(measured)
    if measured := _read("scoring"):
        drawn["scoring"] = _scoring_plot(measured)
    if measured := _read("end_to_end"):
        drawn["end_to_end"] = _end_to_end_plot(measured)
    if measured := _read("deadline"):
        drawn["deadline"] = _deadline_plot(measured)
    return drawn


def _gateway_plot(measured: Mapping[str, Any]) -> Any:
    names = [name for name in measured["contestants"] if name != gateway.AGAIN]
    figure, (left, right) = _axes(2)
    left.barh(names, [measured["contestants"][name]["latency_ms"] for name in names])
    left.set(xlabel="p50 of one request (ms)")
    right.barh(names, [measured["contestants"][name]["per_second"] for name in names], color="tab:green")
    right.set(xlabel="requests a second on one core", yticklabels=[])
    for axes in (left, right):
        axes.invert_yaxis()
    return figure


def _scoring_plot(measured: Mapping[str, Any]) -> Any:
    figure, (left, right) = _axes(2)
    names = [name for name in measured["shapes"][0]["cpu_s"] if name != scoring.AGAIN]
    places, width = np.arange(len(measured["shapes"])), 0.8 / len(names)
    for number, name in enumerate(names):
        at = places + (number - (len(names) - 1) / 2) * width
        left.bar(at, [shape["cpu_s"][name] for shape in measured["shapes"]], width, label=name)
        share = [shape["gflop_per_s"][name] / measured["machine_bf16_gflops"] for shape in measured["shapes"]]
        right.bar(at, share, width, label=name)
    left.set(ylabel="CPU seconds for eight candidates")
    right.set(ylabel="useful work / machine's bf16 rate")
    for axes in (left, right):
        axes.set_xticks(places, [f"P={shape['prompt']}" for shape in measured["shapes"]])
    left.legend()
    return figure


def _end_to_end_plot(measured: Mapping[str, Any]) -> Any:
    figure, (axes,) = _axes(1)
    names = [name for name in measured["contestants"] if name != end_to_end.RAW]
    over = [[row[name]["wall_s"] / row[end_to_end.RAW]["wall_s"] for row in measured["rows"]] for name in names]
    axes.boxplot(over, orientation="horizontal", tick_labels=names)
    axes.axvline(1, color="grey", linewidth=1)
    axes.invert_yaxis()
    axes.set(xlabel="time over vLLM's n=8 without scoring, same prompt", xscale="log")
    axes.set_xticks([0.8, 1, 1.5, 2, 3, 5], ["0.8", "1", "1.5", "2", "3", "5"])
    axes.minorticks_off()
    return figure


def _deadline_plot(measured: Mapping[str, Any]) -> Any:
    figure, (axes,) = _axes(1)
    loads = [run["of_capacity"] for run in measured["runs"]]
    for name in ("p50", "p95", "p99"):
        axes.plot(loads, [run["latency_ms"][name] for run in measured["runs"]], marker="o", label=name)
    axes.axhline(measured["setup"]["budget_ms"], color="tab:red", linestyle="--", label="budget")
    axes.set(xlabel="load over capacity", ylabel="ms", ylim=(0, None))
    axes.legend(loc="lower right")
    return figure


def _axes(count: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained", facecolor="white")
    axes = np.atleast_1d(figure.subplots(1, count))
    for each in axes:
        each.grid(alpha=0.3)
    return figure, axes


def _read(name: str) -> Any:
    path = MEASURED / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


if __name__ == "__main__":
    page = DOCS / "explanation" / "performance.md"
    text = current(page.read_text())
    if "--check" in sys.argv:
        sys.exit(None if text == page.read_text() else f"{page}: its tables are not current; run `make performance`")
    page.write_text(text)
    import matplotlib as mpl

    mpl.rcParams["svg.hashsalt"] = "winnow"
    for name, figure in plots().items():
        figure.savefig(MEASURED / f"{name}.svg", metadata={"Date": None})
