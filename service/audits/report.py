"""The report of an audit: figures as JSON, and a page with plots."""

from __future__ import annotations

import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from reward_model.report import Report, new_figure
from service.audits.agreement import ALARM, drift, figures, from_verdicts
from service.audits.judging import Audits
from service.reviews.queue import Reviews
from service.store.rows import Row

_SUSPICIOUS = 0.01


async def gather(engine: AsyncEngine, audit_id: str) -> Row:
    """An audit's figures, those of the audits before it, drift of its annotators, and review verdicts of its time."""
    audits = Audits(engine)
    listed = await audits.listed()
    judged = await audits.judged(audit_id)
    (this,) = (row for row in listed if row["id"] == audit_id)
    earlier = [row for row in reversed(listed) if (row["at_ms"], row["id"]) < (this["at_ms"], audit_id)]
    past = [(row, figures(await audits.judged(row["id"]))) for row in earlier]
    measured = figures(judged)
    before: dict[str, Row] = {}
    for _, known in past:
        for name, row in known["annotators"].items():
            sums = before.setdefault(name, {"compared": 0, "same": 0})
            sums["compared"] += row["compared"]
            sums["same"] += row["same"]
    for name, row in measured["annotators"].items():
        row["drift_p_value"] = drift(row, before[name]) if name in before else None
    verdicts = await Reviews(engine).verdicts(this["since_ms"], this["until_ms"])
    shown = {name: this[name] for name in ("id", "since_ms", "until_ms", "seed", "strata", "left_out", "labels_wanted")}
    return {
        **shown,
        **measured,
        "earlier": [{"id": row["id"], "at_ms": row["at_ms"], **_in_brief(known)} for row, known in past],
        "verdicts": from_verdicts(*verdicts),
    }


def audit_report(audit: Row) -> Report:
    """The page."""
    report = Report(f"Audit {audit['id'].removeprefix('audit-')}")
    since, until = (_day(audit[name]) for name in ("since_ms", "until_ms"))
    report.text(
        f"A stratified random sample of the reranked answers of {since} to {until}, judged blind: {audit['items']} "
        f"answers drawn, {audit['labelled']} settled by {audit['labels']} of {audit['labels_wanted']} labels wanted. "
        "Every share is weighted by the answers that its row stands for; intervals are Wilson's 95 % at the effective "
        "number of rows."
    )
    for warning in _warnings(audit):
        report.warning(warning)
    _main(report, audit)
    _over_time(report, audit)
    _calibration(report, audit)
    _annotators(report, audit)
    report.heading("What was drawn")
    rows = [[name, row["answers"], row["drawn"]] for name, row in sorted(audit["strata"].items())]
    left_out = ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in audit["left_out"].items())
    report.table(["route/decision", "answers", "drawn"], rows, f"Not drawn from - {left_out}.")
    return report


def _warnings(audit: Row) -> list[str]:
    value, kappa = audit["agreement"]["value"], audit["between_annotators"]["kappa"]
    warnings = []
    if value is None:
        warnings.append("Nothing is known of agreement yet: no pair of candidates has a label with a winner.")
    elif value < ALARM:
        warnings.append(
            f"People agree with the reward model in {value:.1%}, under {ALARM:.0%}: find out why before it serves on."
        )
    if audit["labels"] < audit["labels_wanted"]:
        warnings.append("The audit is not finished; what is easy may have been labelled first.")
    if kappa is not None and kappa < 0.4:
        warnings.append(f"Annotators hardly agree with each other (kappa {kappa:.2f}): no model can agree with both.")
    for name, row in audit["annotators"].items():
        if (p := row["drift_p_value"]) is not None and p < _SUSPICIOUS:
            warnings.append(f"{name} does not agree with the others as often as in earlier audits ({_p_value(p)}).")
        if row["left_picked_ci"] and not row["left_picked_ci"][0] <= 0.5 <= row["left_picked_ci"][1]:
            warnings.append(f"{name} picks the left side in {row['left_picked']:.0%}; sides were swapped at random.")
    return warnings


def _main(report: Report, audit: Row) -> None:
    report.heading("Agreement and win-rate")
    rows = [_row("all", audit), *(_row(name, row) for name, row in audit["by_route"].items())]
    header = ["route", "settled", "model and people agree", "longer wins", "ties", "over greedy", "at equal length"]
    report.table(
        [*header, "sendable"],
        rows,
        "Agreement: of pairs of candidates where people prefer one. Baselines: always the longer one, beside it; "
        "at random, 0.5. Over greedy: how often the reranked answer is preferred to the greedy one, ties as half. "
        "Behind each interval: pairs.",
    )
    names = ["all", *audit["by_route"]]
    figure, axes = new_figure(height=1.2 + 0.4 * len(names))
    for place, part in enumerate([audit, *audit["by_route"].values()]):
        if part["agreement"]["value"] is None:
            continue
        axes.plot(part["agreement"]["ci"], [place, place], color="tab:blue")
        axes.plot(part["agreement"]["value"], place, "o", color="tab:blue")
        axes.plot(part["longer_wins"]["value"], place, "x", color="tab:red")
    axes.axvline(0.5, color="grey", linewidth=0.8)
    axes.axvline(ALARM, color="tab:orange", linewidth=0.8, linestyle="--")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="agreement")
    report.figure(
        figure, f"Agreement with its interval; red crosses: always the longer one; dashed: the alarm at {ALARM:.0%}."
    )


def _over_time(report: Report, audit: Row) -> None:
    if not audit["earlier"]:
        return
    report.heading("Over time")
    rows = [*audit["earlier"], {"id": audit["id"], "at_ms": audit["until_ms"], **_in_brief(audit)}]
    report.table(
        ["audit", "labels", "agreement", "kappa", "over greedy"],
        [
            [r["id"], r["labels"], _interval(r["agreement"]), r["kappa"], _interval(r["win_rate_over_greedy"])]
            for r in rows
        ],
    )
    known = [row for row in rows if row["agreement"]["value"] is not None]
    figure, axes = new_figure(height=2.8)
    for place, row in enumerate(known):
        axes.plot([place, place], row["agreement"]["ci"], color="tab:blue")
    axes.plot([row["agreement"]["value"] for row in known], "o-", color="tab:blue")
    axes.axhline(ALARM, color="tab:orange", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(known)), [_day(row["at_ms"]) for row in known], rotation=30, ha="right")
    axes.set(ylim=(0, 1), ylabel="agreement")
    report.figure(figure, "Agreement of audit after audit.")


def _calibration(report: Report, audit: Row) -> None:
    report.heading("P(acceptable) against what people would send")
    verdicts = audit["verdicts"]
    rows = [
        ["this audit", *_fit(audit["calibration"])],
        ["review verdicts, weighted by 1/chance", *_fit(verdicts["weighted"])],
        ["review verdicts as they came", *_fit(verdicts["naive"])],
    ]
    calibrators = ", ".join(
        f"{row['id']} for P({row['event']}), fitted on {row['labels']} labels"
        for row in audit["calibration"]["calibrators"]
    )
    report.table(
        ["labels", "number", "acceptable", "mean probability", "ECE", "Brier", "Brier of the base rate"],
        rows,
        f"Calibrators: {calibrators or 'none'}. {verdicts['open']} tickets are still open.",
    )
    never = verdicts["never_seen"] / verdicts["answers"] if verdicts["answers"] else 0.0
    report.text(
        "Reviewers see the doubtful answers more often than others, so verdicts as they came say nothing of all "
        f"answers; weighted ones do, of those that could be seen at all. {never:.1%} of this time's answers could not "
        "(the route's setting spot_check gives every answer a chance)."
    )


def _annotators(report: Report, audit: Row) -> None:
    report.heading("Annotators")
    between = audit["between_annotators"]
    same = "–" if between["same"] is None else f"{between['same']:.3f} ({_range(between['same_ci'])})"
    report.text(
        f"{between['items']} pairs have two labels. The same choice: {same}; Cohen's kappa: {_shown(between['kappa'])}."
    )
    rows = [
        [name, row["labels"], row["ties"], row["left_picked"], row["same"], row["compared"], row["drift_p_value"]]
        for name, row in audit["annotators"].items()
    ]
    report.table(
        ["annotator", "labels", "ties", "left picked", "same as the other", "of", "drift, p"],
        rows,
        "Without bias the left side is picked in half. Drift: agrees with the others as often as in earlier audits "
        "(Fisher's exact test).",
    )


def _in_brief(audit: Row) -> Row:
    return {
        "labels": audit["labels"],
        "agreement": audit["agreement"],
        "win_rate_over_greedy": audit["win_rate_over_greedy"],
        "kappa": audit["between_annotators"]["kappa"],
    }


def _row(name: str, row: Row) -> list[Any]:
    return [
        name,
        row["labelled"],
        _interval(row["agreement"]),
        row["longer_wins"]["value"],
        row["ties"],
        _interval(row["win_rate_over_greedy"]),
        row["win_rate_at_equal_length"],
        _interval(row["acceptable"]),
    ]


def _fit(row: Row) -> list[Any]:
    if not row["labels"]:
        return [0, *[None] * 5]
    share = f"{row['acceptable']:.3f} ({_range(row['acceptable_ci'])})"
    return [row["labels"], share, row["mean_probability"], row["ece"], row["brier"], row["brier_of_base_rate"]]


def _interval(share: Row) -> str | None:
    return None if share["value"] is None else f"{share['value']:.3f} ({_range(share['ci'])}), {share['rows']}"


def _range(interval: list[float]) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _p_value(p: float) -> str:
    return f"p = {p:.4f}" if p >= 1e-4 else "p < 0.0001"


def _day(at_ms: int) -> str:
    return datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC).date().isoformat()
