"""The report of `winnow data check`, for people."""

from __future__ import annotations

from typing import Any

from reward_model.report import Report, new_figure

# Lines of the schema's errors that the page shows; the JSON has them all.
_ERRORS = 50


def check_report(result: dict[str, Any]) -> Report:
    """A check's figures as a page: what to do first, then where it comes from."""
    report = Report("Check of preference pairs")
    report.text(
        f"{result['pairs']} pairs ({result['ties']} ties) of {result['groups']} groups, {len(result['files'])} files; "
        "intervals are Wilson's 95 %."
    )
    _warnings(report, result)
    _files(report, result)
    _mix(report, result["mix"])
    _overlap(report, result)
    _position(report, result["position"])
    _length(report, result["length"], result["limits"]["max_longer_wins"])
    _agreement(report, result["agreement"], result["limits"]["min_agreement"])
    _annotators(report, result["annotators"])
    return report


def _warnings(report: Report, result: dict[str, Any]) -> None:
    report.heading("Warnings")
    for warning in result["warnings"]:
        report.warning(warning["message"])
    if not result["warnings"]:
        report.text("None.")


def _files(report: Report, result: dict[str, Any]) -> None:
    report.heading("Files")
    report.table(
        ["file", "pairs", "digest of its ids"],
        [[path, file["pairs"], file["digest"][:12]] for path, file in result["files"].items()],
    )
    if errors := result["schema_errors"]:
        rows = [[e["file"], e["line"], e["field"], e["message"]] for e in errors[:_ERRORS]]
        report.table(["file", "line", "field", "what is wrong"], rows, f"{len(rows)} of {len(errors)} errors of schema")


def _mix(report: Report, mix: dict[str, Any]) -> None:
    report.heading("What the pairs are made of")
    buckets = mix["by_bucket"]
    if not buckets:
        return
    labels = list(mix["label"])
    rows = [
        [name, b["pairs"], b["ties"], *(b["label"].get(label, 0) for label in labels)] for name, b in buckets.items()
    ]
    report.table(["bucket", "pairs", "ties", *labels], rows, "Pairs by bucket and label")
    origins = sorted({origin for bucket in buckets.values() for origin in bucket["origin"]})
    counts = {o: [bucket["origin"].get(o, 0) for bucket in buckets.values()] for o in origins}
    report.figure(_stacked(list(buckets), counts, "replies"), "Replies by bucket and by who wrote them.")
    counted = ("source", "locale", "risk", "failure_mode", "chosen_origin", "rejected_origin")
    report.table(
        ["field", "value", "pairs"],
        [[name.replace("_", " "), value, pairs] for name in counted for value, pairs in mix[name].items()],
    )
    if mix["dimensions"]:
        rows = [[name, *figures.values()] for name, figures in mix["dimensions"].items()]
        report.table(["dimension", "pairs", "chosen is better", "equal", "rejected is better"], rows)


def _overlap(report: Report, result: dict[str, Any]) -> None:
    report.heading("Twice, and in two splits")
    twice, leaks = result["duplicates"], result["leakage"]
    for figures in filter(None, (twice, result["truncation"], leaks)):
        kinds = figures["examples"]
        rows = [[kind.replace("_", " "), figures[kind], *_example(kinds[kind])] for kind in kinds]
        report.table(["what", "found", "for example"], rows)
    sizes = ", ".join(f"{name} {pairs}" for name, pairs in leaks["splits"].items())
    report.text(f"Pairs by split: {sizes or 'none'}.")


def _example(found: list[list[str]]) -> list[str | None]:
    return [" and ".join(found[0][:2])] if found else [None]


def _position(report: Report, position: dict[str, Any]) -> None:
    report.heading("Does the winner come first?")
    if not position["pairs"]:
        report.text("The order in which annotators saw the replies (shown_first) is not recorded.")
        return
    everything = {"all": position, **position["by_source"]}
    rows = [
        [name, f["pairs"], f["winner_first"], _interval(f["winner_first_ci"]), f"{f['p_value']:.2g}"]
        for name, f in everything.items()
    ]
    caption = "Without bias it is 0.5; p by the exact binomial test"
    report.table(["source", "pairs", "winner first", "95 % interval", "p"], rows, caption)


def _length(report: Report, length: dict[str, Any], limit: float) -> None:
    report.heading("Does the longer reply win?")
    if not length["pairs"]:
        return
    everything = {"all": length, **length["by_bucket"]}
    rows = [
        [name, f["pairs"], f["longer_wins"], _interval(f["longer_wins_ci"]), f["median_ratio"]]
        for name, f in everything.items()
    ]
    header = ["bucket", "pairs", "longer wins", "95 % interval", "median of the winner's length over the loser's"]
    report.table(header, rows)
    shares = {name: (f["longer_wins"], f["longer_wins_ci"]) for name, f in everything.items()}
    report.figure(
        _intervals(shares, (1 - limit, limit)),
        f"Share of pairs whose longer reply wins, by bucket; lines at {1 - limit:.2f} and {limit:.2f}.",
    )
    figure, axes = new_figure(height=2.6)
    bins = length["ratio_histogram"]
    names = [f"{b['from']:g}–{b['to']:g}" if b["to"] else f"{b['from']:g}+" for b in bins]
    axes.bar(names, [b["pairs"] for b in bins])
    axes.tick_params(axis="x", rotation=45)
    axes.set(xlabel="winner's length / loser's length", ylabel="pairs")
    report.figure(figure, "Pairs by the winner's length over the loser's.")


def _agreement(report: Report, agreement: dict[str, Any], limit: float) -> None:
    report.heading("Do annotators agree?")
    if not agreement:
        report.text("No pair has votes of two annotators.")
        return
    rows = [
        [name, f["pairs"], f["comparisons"], f["agreement"], _interval(f["agreement_ci"]), f["kappa"]]
        for name, f in agreement.items()
    ]
    report.table(["bucket", "pairs", "comparisons", "agreement", "95 % interval", "Fleiss' kappa"], rows)
    shares = {name: (f["agreement"], f["agreement_ci"]) for name, f in agreement.items()}
    caption = f"Share of annotators who voted alike, by bucket; below {limit:.0%} the guideline is the problem."
    report.figure(_intervals(shares, (limit,)), caption)


def _annotators(report: Report, annotators: dict[str, Any]) -> None:
    if not annotators:
        return
    report.heading("Annotators")
    rows = [
        [name, f["votes"], *(f[key] and f[key]["share"] for key in ("with_outcome", "with_majority", "first_picked"))]
        + (
            [f["drift"]["first_half"], f["drift"]["second_half"], f"{f['drift']['p_value']:.2g}"]
            if f["drift"]
            else [None] * 3
        )
        for name, f in annotators.items()
    ]
    header = ["annotator", "votes", "with the outcome", "with the others' majority", "picked the first shown"]
    report.table([*header, "agreement, first half", "second half", "p"], rows)
    dated = {name: f["by_week"] for name, f in annotators.items() if len(f["by_week"]) > 1}
    if not dated:
        return
    figure, axes = new_figure()
    weeks = sorted({week for by_week in dated.values() for week in by_week})
    for name, by_week in dated.items():
        axes.plot([weeks.index(week) for week in by_week], [w["agreement"] for w in by_week.values()], "o-", label=name)
    axes.set_xticks(range(len(weeks)), weeks, rotation=45)
    axes.set(ylabel="agreement", ylim=(-0.02, 1.02))
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    report.figure(figure, "Agreement with the others (else with the outcome) by ISO week.")


def _interval(bounds: list[float]) -> str:
    return " to ".join(f"{bound:.3f}" for bound in bounds)


def _stacked(names: list[str], counts: dict[str, list[int]], unit: str) -> Any:
    """Horizontal bars, one a name, made of the counts of each part."""
    figure, axes = new_figure(height=0.8 + 0.3 * len(names))
    left = [0] * len(names)
    for part, values in counts.items():
        axes.barh(names, values, left=left, label=part)
        left = [done + value for done, value in zip(left, values, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _intervals(shares: dict[str, tuple[float, list[float]]], limits: tuple[float, ...]) -> Any:
    """A share with its interval by name, and lines at the limits."""
    figure, axes = new_figure(height=0.8 + 0.3 * len(shares))
    values = [share for share, _ in shares.values()]
    errors = [[v - low for v, (_, (low, _)) in zip(values, shares.values(), strict=True)]]
    errors += [[high - v for v, (_, (_, high)) in zip(values, shares.values(), strict=True)]]
    # Bounds are rounded, so that one may pass the share by the last digit.
    axes.errorbar(values, range(len(values)), xerr=[[max(0.0, e) for e in side] for side in errors], fmt="o", capsize=3)
    axes.set_yticks(range(len(values)), list(shares))
    axes.set(xlim=(0, 1), ylim=(len(values) - 0.5, -0.5))
    for limit in limits:
        axes.axvline(limit, color="tab:red", linewidth=0.8)
    return figure
