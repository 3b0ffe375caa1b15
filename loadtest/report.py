"""What a run showed: percentiles, goodput, errors, decisions, and whether the objectives were met.

Percentiles are numpy's (linear between ranks), over the answers *and* the requests that timed out, which
count with the time at which they were given up: leaving them out would make the slowest server look fast.
Failures that came back at once (429, a refused connection) would do the same if counted, so they are left
out; the error rate has both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from loadtest.client import RequestOutcome
from loadtest.run import LoadResult
from loadtest.workload import HIGH_STAKES, KINDS


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """What the run is held to; None is not an objective. Times in ms, rates and shares in [0, 1]."""

    deadline_ms: float
    error_rate: float | None = None
    p95_ms: float | None = None
    high_stakes_p95_ms: float | None = None
    goodput_share: float | None = None


@dataclass(frozen=True, slots=True)
class Objective:
    """One limit and what was measured; nothing measured (no answer at all) is a miss."""

    name: str
    limit: float
    measured: float | None
    met: bool


@dataclass(frozen=True, slots=True)
class LoadReport:
    """A run in numbers; `as_json` is what `--out` writes."""

    offered: int
    answered: int
    cancelled: int
    interrupted: bool
    elapsed_s: float
    offered_per_s: float
    goodput_per_s: float
    goodput_share: float
    error_rate: float
    errors: dict[str, int]
    latency_ms: dict[str, dict[str, float]]
    stages_ms: dict[str, dict[str, float]]
    sent_late_ms: dict[str, float]
    routes: dict[str, dict[str, int]]
    decisions: dict[str, dict[str, int]]
    degraded: dict[str, int]
    completion_tokens: int
    objectives: list[Objective]

    @property
    def met(self) -> bool:
        """Whether every objective was."""
        return all(objective.met for objective in self.objectives)

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        return asdict(self)


def spread(values: Sequence[float]) -> dict[str, float]:
    """n, mean, p50, p95, p99 and max; only `n` when there is no value."""
    if not values:
        return {"n": 0}
    p50, p95, p99 = np.percentile(values, [50, 95, 99]).tolist()
    return {
        "n": len(values),
        "mean": float(np.mean(values)),
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "max": max(values),
    }


def summarise(result: LoadResult, limits: LoadLimits) -> LoadReport:
    """The report of a run. Goodput counts the answers within `limits.deadline_ms` of their scheduled time."""
    finished = [outcome for outcome in result.outcomes if outcome.error != "cancelled"]
    answered = [outcome for outcome in finished if outcome.error is None]
    good = sum(outcome.latency_ms <= limits.deadline_ms for outcome in answered)
    share = good / len(finished) if finished else 0.0
    error_rate = 1 - len(answered) / len(finished) if finished else 0.0
    latency = _latency(finished)
    return LoadReport(
        offered=len(result.outcomes),
        answered=len(answered),
        cancelled=len(result.outcomes) - len(finished),
        interrupted=result.interrupted,
        elapsed_s=result.elapsed_s,
        offered_per_s=len(result.outcomes) / result.elapsed_s,
        goodput_per_s=good / result.elapsed_s,
        goodput_share=share,
        error_rate=error_rate,
        errors=_counts(outcome.error for outcome in finished),
        latency_ms=latency,
        stages_ms=_stages(answered),
        sent_late_ms=spread([outcome.late_ms for outcome in finished]),
        routes={kind: _counts(o.route for o in answered if o.kind == kind) for kind in KINDS},
        decisions={kind: _counts(o.decision for o in answered if o.kind == kind) for kind in KINDS},
        degraded=_counts(outcome.degraded for outcome in answered),
        completion_tokens=sum(outcome.completion_tokens for outcome in answered),
        objectives=_objectives(limits, latency, error_rate, share) if finished else [],
    )


def _latency(finished: Sequence[RequestOutcome]) -> dict[str, dict[str, float]]:
    timed = [outcome for outcome in finished if outcome.error in {None, "timeout"}]
    groups = {"all": KINDS, "high_stakes": HIGH_STAKES} | {kind: (kind,) for kind in KINDS}
    return {name: spread([o.latency_ms for o in timed if o.kind in kinds]) for name, kinds in groups.items()}


def _stages(answered: Sequence[RequestOutcome]) -> dict[str, dict[str, float]]:
    names = dict.fromkeys(name for outcome in answered for name in outcome.stages_ms)
    return {name: spread([o.stages_ms[name] for o in answered if name in o.stages_ms]) for name in names}


def _counts(values: Iterable[str | None]) -> dict[str, int]:
    return dict(Counter(value for value in values if value is not None).most_common())


def _objectives(
    limits: LoadLimits, latency: dict[str, dict[str, float]], error_rate: float, share: float
) -> list[Objective]:
    most = (
        ("error_rate", limits.error_rate, error_rate),
        ("p95_ms", limits.p95_ms, latency["all"].get("p95")),
        ("high_stakes_p95_ms", limits.high_stakes_p95_ms, latency["high_stakes"].get("p95")),
    )
    held = [
        Objective(name, limit, measured, measured is not None and measured <= limit)
        for name, limit, measured in most
        if limit is not None
    ]
    if limits.goodput_share is not None:
        held.append(Objective("goodput_share", limits.goodput_share, share, share >= limits.goodput_share))
    return held


def render(report: LoadReport) -> Group:
    """The report for a person at a terminal."""
    head = Text(
        f"{report.offered} requests in {report.elapsed_s:.1f} s ({report.offered_per_s:.2f}/s), "
        f"{report.answered} answered; goodput {report.goodput_per_s:.2f}/s ({report.goodput_share:.1%}); "
        f"errors {report.error_rate:.1%} {report.errors or ''}; {report.completion_tokens} completion tokens"
    )
    late = f"Sent late by the generator itself: p99 {report.sent_late_ms.get('p99', 0):.1f} ms."
    stopped = f" Stopped early, {report.cancelled} requests under way were dropped." if report.interrupted else ""
    parts: list[RenderableType] = [
        head,
        _spread_table("Latency from the scheduled send time (ms)", report.latency_ms),
    ]
    if report.stages_ms:
        parts.append(_spread_table("Stages, as the server tells them (ms)", report.stages_ms))
    parts += [_decision_table(report), Text(late + stopped)]
    return Group(*parts, *(_objective_line(objective) for objective in report.objectives))


def _spread_table(title: str, rows: dict[str, dict[str, float]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("n", "p50", "p95", "p99", "max"):
        table.add_column(name, justify="right")
    for name, row in rows.items():
        cells = [f"{row[key]:.1f}" if key in row else "-" for key in ("p50", "p95", "p99", "max")]
        table.add_row(name, f"{row['n']:.0f}", *cells)
    return table


def _decision_table(report: LoadReport) -> Table:
    table = Table(title="What was decided", title_justify="left")
    for name in ("prompts of kind", "routed to", "decision"):
        table.add_column(name)
    for kind in KINDS:
        table.add_row(kind, _joined(report.routes[kind]), _joined(report.decisions[kind]))
    return table


def _joined(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"


def _objective_line(objective: Objective) -> Text:
    measured = "nothing" if objective.measured is None else f"{objective.measured:.4g}"
    verdict = "met" if objective.met else "MISSED"
    line = f"Objective {objective.name} {objective.limit:g}: measured {measured}, {verdict}"
    return Text(line, style="green" if objective.met else "bold red")
