"""A run as one HTML page with plots: nothing is loaded from elsewhere, so it can be kept and sent."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.capacity import Sweep
from loadtest.errors import LoadTestError
from loadtest.report import LoadReport
from loadtest.run import LoadResult
from loadtest.workload import Arrival

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1c1e21; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; }
.met { color: #116329; } .missed { color: #b3261e; font-weight: 600; }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e6e6e6; } img { background: #fff; } }
"""
_COLUMNS = ("n", "p50", "p95", "p99", "max")


def write_html(
    path: Path, title: str, report: LoadReport, result: LoadResult, arrivals: Sequence[Arrival], swept: Sweep | None
) -> None:
    """Write the page; raises LoadTestError where matplotlib is missing."""
    parts = [f"<h1>{html.escape(title)}</h1>", _objectives(report)]
    parts.append(
        f"<p>{report.offered} requests in {report.elapsed_s:.1f} s ({report.offered_per_s:.2f} a second), "
        f"{report.answered} answered, {report.goodput_per_s:.2f} a second within the deadline "
        f"({report.goodput_share:.1%}), errors {report.error_rate:.1%}, "
        f"{report.completion_tokens} completion tokens.</p>"
    )
    if swept is not None:
        parts += [_sweep_table(swept), _image("Rate and p95", _sweep_plot(swept))]
    parts += [
        _table("Latency from the scheduled send time (ms)", report.latency_ms),
        _image("Latency of each request by its scheduled time", _scatter(result, arrivals)),
        _image("Share of requests answered within a time", _cumulative(result)),
    ]
    if report.stages_ms:
        parts.append(_table("Stages, as the server tells them (ms)", report.stages_ms))
    parts.append(_counts("Decisions", report.decisions))
    page = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    page += f"<title>{html.escape(title)}</title><style>{_STYLE}</style>{''.join(parts)}</html>\n"
    path.write_text(page, encoding="utf-8")


def _objectives(report: LoadReport) -> str:
    lines = []
    for objective in report.objectives:
        measured = "nothing" if objective.measured is None else f"{objective.measured:.4g}"
        state = "met" if objective.met else "missed"
        lines.append(f"<li class={state}>{objective.name} {objective.limit:g}: measured {measured}, {state}</li>")
    return f"<ul>{''.join(lines)}</ul>"


def _table(title: str, rows: dict[str, dict[str, float]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("", *_COLUMNS))
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td>{row[c]:.0f}</td>" if c in row else "<td>-</td>" for c in _COLUMNS)
        + "</tr>"
        for name, row in rows.items()
    )
    return f"<h2>{html.escape(title)}</h2><table><tr>{head}</tr>{body}</table>"


def _counts(title: str, rows: dict[str, dict[str, int]]) -> str:
    body = "".join(
        f"<tr><td>{html.escape(kind)}</td>"
        f"<td>{html.escape(', '.join(f'{name} {count}' for name, count in counts.items()) or '-')}</td></tr>"
        for kind, counts in rows.items()
    )
    return f"<h2>{title}</h2><table><tr><th>prompts of kind</th><th>{title.lower()}</th></tr>{body}</table>"


def _sweep_table(swept: Sweep) -> str:
    body = "".join(
        f"<tr><td>{step.rate:.2f}</td><td>{step.report.latency_ms['all'].get('p95', float('nan')):.0f}</td>"
        f"<td>{step.report.goodput_share:.1%}</td><td class={'met' if step.met else 'missed'}>"
        f"{'met' if step.met else 'missed'}</td></tr>"
        for step in sorted(swept.steps, key=lambda step: step.rate)
    )
    found = "none" if swept.capacity is None else f"{swept.capacity:.2f} a second"
    head = "<tr><th>rate</th><th>p95 (ms)</th><th>within the deadline</th><th>objectives</th></tr>"
    return f"<h2>Capacity: {found}</h2><table>{head}{body}</table>"


def _scatter(result: LoadResult, arrivals: Sequence[Arrival]) -> Any:
    figure, axes = _axes("scheduled time (s)", "latency (ms)")
    pairs = [(a.at_s, o) for a, o in zip(arrivals, result.outcomes, strict=False) if o.error != "cancelled"]
    for kind in dict.fromkeys(outcome.kind for _, outcome in pairs):
        mine = [(at, outcome.latency_ms) for at, outcome in pairs if outcome.kind == kind and outcome.error is None]
        if mine:
            axes.scatter(*zip(*mine, strict=True), s=12, label=kind)
    if failed := [(at, outcome.latency_ms) for at, outcome in pairs if outcome.error is not None]:
        axes.scatter(*zip(*failed, strict=True), s=24, marker="x", color="black", label="failed")
    axes.legend()
    return figure


def _cumulative(result: LoadResult) -> Any:
    figure, axes = _axes("latency (ms)", "share answered")
    done = [outcome for outcome in result.outcomes if outcome.error != "cancelled"]
    for kind in dict.fromkeys(outcome.kind for outcome in done):
        of_kind = [outcome for outcome in done if outcome.kind == kind]
        times = np.sort([outcome.latency_ms for outcome in of_kind if outcome.error is None])
        axes.step(times, np.arange(1, len(times) + 1) / len(of_kind), where="post", label=kind)
    axes.set_ylim(0, 1.02)
    axes.legend()
    return figure


def _sweep_plot(swept: Sweep) -> Any:
    figure, axes = _axes("rate (requests a second)", "p95 (ms)")
    for met, colour in ((True, "tab:green"), (False, "tab:red")):
        steps = [step for step in swept.steps if step.met is met and "p95" in step.report.latency_ms["all"]]
        axes.scatter(
            [step.rate for step in steps],
            [step.report.latency_ms["all"]["p95"] for step in steps],
            color=colour,
            label="met" if met else "missed",
        )
    axes.set_xscale("log")
    axes.legend()
    return figure


def _axes(x: str, y: str) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise LoadTestError("plots need matplotlib: pip install 'winnow-rerank[train]'") from error
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def _image(title: str, figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"<h2>{html.escape(title)}</h2><img alt='{html.escape(title)}' src='data:image/png;base64,{data}'>"
