"""The report of `winnow evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_model.labels import Pair, as_completion
from reward_model.report import Report, new_figure


def evaluation_report(
    result: dict[str, Any], pairs: Sequence[Pair], scores: NDArray[np.floating[Any]], title: str
) -> Report:
    """Accuracy with its intervals and baselines, by bucket, risk, origin and failure mode; gaps; length."""
    report = Report(f"{title} by {result['orm']}")
    if equal := result["equal_after_truncation"]:
        report.warning(f"{equal} pairs are in no figure: after truncation both of their replies are the same tokens.")
    if not result["pairs"]:
        report.warning(f"All {result['ties']} pairs are ties: there is no accuracy to report.")
        return report
    report.text(
        f"{result['pairs']} pairs with a winner, {result['ties']} ties. Accuracy {result['accuracy']:.3f} "
        f"({result['accuracy_ci'][0]:.3f} to {result['accuracy_ci'][1]:.3f}); always picking the longer reply: "
        f"{result['longer_wins']:.3f}; at random: 0.5. At equal lengths the model would agree with people in "
        f"{_shown(result['length_controlled'])} of the pairs. Intervals are 95 %, clustered by "
        "dialogue: pairs of one are not independent."
    )
    _baselines(report, result)
    _judged(report, result.get("judge"))
    if rated := result.get("ratings"):
        report.text(
            f"Spearman's rank correlation with {rated['replies']} ratings from 1 to 5: "
            f"{_shown(rated['within_prompts'])} within the {rated['prompts']} prompts, {_shown(rated['all'])} over all "
            "of them. Scores are comparable within one prompt only, so the first is the one to look at."
        )
    for key in ("by_bucket", "by_risk", "by_origin", "by_length", "by_failure_mode"):
        _part(report, key.removeprefix("by_").replace("_", " "), result[key])
    _gaps(report, pairs, scores)
    _lengths(report, pairs, scores)
    return report


def _baselines(report: Report, result: dict[str, Any]) -> None:
    if not (beside := result.get("baselines")):
        return
    rows = [
        [name.replace("_", " "), f["accuracy"], " to ".join(f"{bound:.3f}" for bound in f["accuracy_ci"])]
        for name, f in {result["orm"]: result, **beside}.items()
        if isinstance(f, dict) and "accuracy" in f
    ]
    report.table(["", "accuracy", "95 % interval"], rows)
    report.text(f"{counted(beside)} Baselines learned from {beside['learned_from']}.")


def counted(beside: dict[str, Any]) -> str:
    """One sentence on the distinct replies of a set."""
    distinct, known = beside["replies"]["distinct"], beside["replies"]["in_training"]
    also = "" if known is None else f", {known} of which also stand in training pairs"
    return f"{distinct} distinct replies{also}."


def _judged(report: Report, judged: dict[str, Any] | None) -> None:
    if judged is None:
        return
    report.warning(
        f"Judge {judged['judge']} ({judged['note']}): of {judged['pairs']} pairs it was steady on "
        f"{judged['pairs'] - judged['ties'] - judged['unreadable']}, and agrees there with the model in "
        f"{_shown(judged['judge_with_model'])} and with people in {_shown(judged['judge_with_people'])}. On "
        f"{judged['ties']} it named the same place in both orders, which counts as a tie; on "
        f"{judged['unreadable']} an answer named no side."
    )


def _part(report: Report, name: str, figures: dict[str, Any]) -> None:
    report.heading(f"By {name}")
    rows = [
        [value, f["pairs"], f["accuracy"], " to ".join(f"{x:.3f}" for x in f["accuracy_ci"]), f["longer_wins"]]
        for value, f in figures.items()
    ]
    report.table([name, "pairs", "accuracy", "95 % interval", "longer wins"], rows)
    if len(figures) < 2:
        return
    figure, axes = new_figure(height=0.6 + 0.3 * len(figures))
    places = range(len(figures))
    for place, f in zip(places, figures.values(), strict=True):
        axes.plot(f["accuracy_ci"], [place, place], color="tab:blue")
        axes.plot(f["accuracy"], place, "o", color="tab:blue")
        axes.plot(f["longer_wins"], place, "x", color="tab:red")
    axes.axvline(0.5, color="grey", linewidth=0.8)
    axes.set_yticks(list(places), list(figures))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    report.figure(figure, f"Accuracy by {name}; red crosses: always picking the longer reply.")


def _gaps(report: Report, pairs: Sequence[Pair], scores: NDArray[np.floating[Any]]) -> None:
    report.heading("Score of the winner less that of the loser")
    figure, axes = new_figure(height=2.8)
    gaps = scores[:, 0] - scores[:, 1]
    ties = np.array([pair.outcome == "tie" for pair in pairs], dtype=bool)
    edges = np.histogram_bin_edges(gaps, 40)
    axes.hist(gaps[~ties], edges, alpha=0.7, label="wins")
    if ties.any():
        axes.hist(gaps[ties], edges, alpha=0.7, label="ties")
        axes.legend(frameon=False)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="difference of scores", ylabel="pairs")
    means = [np.abs(gaps[members]).mean() if members.any() else None for members in (~ties, ties)]
    report.figure(
        figure,
        f"Right of 0 the model agrees with people. Mean difference, either way: {_shown(means[0])} where there is a "
        f"winner, {_shown(means[1])} on ties.",
    )


def _lengths(report: Report, pairs: Sequence[Pair], scores: NDArray[np.floating[Any]]) -> None:
    decided = [i for i, pair in enumerate(pairs) if pair.outcome == "win"]
    ratio = np.array([np.log2(_length(pairs[i].chosen) / _length(pairs[i].rejected)) for i in decided])
    right = scores[decided, 0] > scores[decided, 1]
    figure, axes = new_figure(height=2.8)
    for members in np.array_split(np.argsort(ratio), min(8, max(1, len(decided) // 20))):
        axes.plot(ratio[members].mean(), right[members].mean(), "o", color="tab:blue")
    axes.axhline(0.5, color="grey", linewidth=0.8)
    axes.set(xlabel="length of the winner over the loser's (log2)", ylabel="accuracy", ylim=(0, 1))
    report.figure(
        figure, "Accuracy by how much longer the winner is: a model that likes length rises from left to right."
    )


def _length(reply: Any) -> int:
    return 1 + len(as_completion(reply).text())


def _shown(value: Any) -> str:
    return "unknown" if value is None else f"{value:.3f}"
