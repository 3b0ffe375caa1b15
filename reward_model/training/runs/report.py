"""The report of a training run: learning curves, and accuracy on held-out pairs."""

from __future__ import annotations

from typing import Any

from reward_model.checkpoint.manifest import Manifest
from reward_model.report import Report, new_figure

_BASELINES = ("reply_only", "bag_of_words", "next_step")


def training_report(manifest: Manifest, log: list[dict[str, Any]]) -> Report:
    """Learning curves, held-out accuracy beside the longer reply's, and the scores' distribution."""
    report = Report(f"Training report of {manifest.id}")
    report.text(
        f"{manifest.layers} layers of {manifest.base.name}, {manifest.pooling.replace('_', ' ')}; made "
        f"{manifest.created} from revision {manifest.git_revision[:12]}. "
        "The recipe and the data's digests are in manifest.json."
    )
    if equal := {name: count for name, count in manifest.data.get("equal_after_truncation", {}).items() if count}:
        counts = ", ".join(f"{name} {count}" for name, count in equal.items())
        report.warning(f"Pairs left out, because after truncation both replies are the same tokens: {counts}.")
    if any("loss" in entry for entry in log):
        _curves(report, log)
    held_out = manifest.metrics["held_out"]
    _accuracy(report, held_out)
    _buckets(report, held_out)
    _scores(report, manifest)
    return report


def _curves(report: Report, log: list[dict[str, Any]]) -> None:
    report.heading("Learning curves")
    figure, axes = new_figure()
    axes.plot(*_series(log, "loss"), label="training loss", alpha=0.6)
    axes.plot(*_series(log, "eval_loss"), "o-", label="validation loss")
    axes.set(xlabel="step", ylabel="loss")
    accuracy = axes.twinx()
    accuracy.plot(*_series(log, "eval_accuracy"), "s--", color="tab:green", label="validation accuracy")
    accuracy.set_ylabel("pairwise accuracy")
    lines = [*axes.get_lines(), *accuracy.get_lines()]
    axes.legend(
        lines, [line.get_label() for line in lines], frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1)
    )
    report.figure(figure, "Loss and validation accuracy by step; the best validated step is the one that was kept.")


def _series(log: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    entries = [entry for entry in log if name in entry]
    return [entry["step"] for entry in entries], [entry[name] for entry in entries]


def _accuracy(report: Report, held_out: dict[str, Any]) -> None:
    report.heading("Held-out pairs")
    report.text(
        "No group (a prompt, a dialogue) of these was trained on. Intervals are 95 %, clustered by group. A random "
        "choice gives 0.5; reply only is the model behind an empty prompt."
    )
    known = {name: figures for name, figures in held_out.items() if figures["pairs"]}
    rows = [
        [name, f["pairs"], f["accuracy"], " to ".join(f"{bound:.3f}" for bound in f["accuracy_ci"]), f["longer_wins"]]
        + [f.get("baselines", {}).get(baseline, {}).get("accuracy") for baseline in _BASELINES]
        for name, f in known.items()
    ]
    names = [baseline.replace("_", " ") for baseline in _BASELINES]
    report.table(["source", "pairs", "accuracy", "95 % interval", "longer wins", *names], rows)
    report.figure(_bars(known), "Held-out accuracy by source with intervals; crosses: always picking the longer reply.")


def _bars(known: dict[str, Any]) -> Any:
    figure, axes = new_figure(height=0.4 + 0.35 * len(known))
    places = range(len(known))
    values = [f["accuracy"] for f in known.values()]
    lower = [f["accuracy"] - f["accuracy_ci"][0] for f in known.values()]
    upper = [f["accuracy_ci"][1] - f["accuracy"] for f in known.values()]
    axes.errorbar(values, places, xerr=[lower, upper], fmt="o", capsize=3)
    axes.plot([f["longer_wins"] for f in known.values()], places, "x", color="tab:red")
    axes.axvline(0.5, color="grey", linewidth=0.8)
    axes.set_yticks(list(places), list(known))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    return figure


def _buckets(report: Report, held_out: dict[str, Any]) -> None:
    rows = [
        [source, bucket, f["pairs"], f["accuracy"], f["longer_wins"]]
        for source, figures in held_out.items()
        for bucket, f in figures["by_bucket"].items()
    ]
    report.table(["source", "bucket", "pairs", "accuracy", "longer wins"], rows, "By bucket")


def _scores(report: Report, manifest: Manifest) -> None:
    reference = manifest.reference_scores
    if reference is None:
        return
    report.heading("Scores")
    figure, axes = new_figure(height=2.6)
    axes.stairs(reference.counts, reference.edges, fill=True, alpha=0.6)
    axes.set(xlabel="score", ylabel="replies")
    report.figure(figure, f"Scores of {reference.of}: what drift is measured against.")
