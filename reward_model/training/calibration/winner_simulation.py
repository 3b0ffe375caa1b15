"""When is a threshold that was fitted on all candidates wrong for winners? A simulation of both cases.

`independent`: a candidate's label and score depend on its own quality alone. Knowing that it had the highest score
of N says nothing beyond the score, so a threshold from all candidates holds for winners too.

`shared`: label and score depend on the prompt's easiness, which the calibrator does not see, and the score on noise of
each candidate. Having won with a score means that the siblings scored lower, hence that the prompt was harder than the
score suggests: winners are acceptable less often than candidates of the same score, and only a threshold from
winners keeps its promise. (The winner's curse of best-of-N.)

Three rules choose a threshold on scores: the lowest with the wanted share of acceptable answers among all candidates
that are labelled, the lowest among labelled winners, and the one that Learn-then-Test returns for winners
(`thresholds.py`). The first two are right at best on average; the third falls short in at most 5 % of worlds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from reward_model.estimates import wilson
from reward_model.report import Report, new_figure
from reward_model.training.calibration.thresholds import risk_controlled

Case = Literal["independent", "shared"]
Rule = Literal["all candidates", "winners", "winners, tested"]
Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]

app = typer.Typer(add_completion=False)

CASES: tuple[Case, ...] = ("independent", "shared")
WANTED, DELTA = 0.8, 0.05
_NOISE, _SLOPE, _OFFSET = 1.0, 2.0, -1.0
# Of these first, the test forgives some errors.
_LEAST_ACCEPTED = 60
# Fresh prompts for each that the rules see, so that what is left of chance is the rules'.
_FRESH = 10


class World(NamedTuple):
    """Scores and labels [prompts, N]."""

    scores: Floats
    labels: Labels

    def winners(self) -> tuple[Floats, Labels]:
        """Score and label of each prompt's best candidate."""
        best = self.scores.argmax(1)
        rows = np.arange(len(best))
        return self.scores[rows, best], self.labels[rows, best]

    def candidates(self) -> tuple[Floats, Labels]:
        """Score and label of every candidate."""
        return self.scores.ravel(), self.labels.ravel()


class SimulatedWeek(NamedTuple):
    """How one rule did on fresh winners; intervals of 95 %, over the simulated worlds."""

    case: Case
    rule: Rule
    n: int
    wanted: float
    precision: float | None
    precision_ci: tuple[float, float] | None
    accepted: float
    short: float
    short_ci: tuple[float, float]


def draw(case: Case, prompts: int, n: int, generator: np.random.Generator) -> World:
    """One world: quality is each candidate's own, or one easiness for all candidates of a prompt."""
    quality = generator.normal(size=(prompts, n if case == "independent" else 1))
    scores = quality + _NOISE * generator.normal(size=(prompts, n))
    chance = 1 / (1 + np.exp(-(_SLOPE * quality + _OFFSET)))
    return World(scores, generator.random((prompts, n)) < chance)


def threshold_for(scores: Floats, labels: Labels, wanted: float) -> float:
    """The lowest score from which on at least `wanted` of the labels are positive; infinite where there is none."""
    order = np.argsort(-scores)
    precision = np.cumsum(labels[order]) / np.arange(1, len(order) + 1)
    # The first few are too few to mean anything.
    met = np.flatnonzero((precision >= wanted) & (np.arange(len(order)) >= 30))
    return float(scores[order][met[-1]]) if len(met) else float("inf")


def tested_threshold(scores: Floats, labels: Labels, wanted: float) -> float:
    """The one that Learn-then-Test returns for the risk 1 - `wanted` at DELTA; infinite where there is none."""
    grid = np.quantile(scores, np.linspace(0, 1, 101), method="higher")
    found = risk_controlled(scores, labels, 1 - wanted, DELTA, grid, _LEAST_ACCEPTED).threshold
    return float("inf") if found is None else found


def simulate(
    case: Case, seeds: int = 100, prompts: int = 2000, n: int = 8, wanted: float = WANTED
) -> list[SimulatedWeek]:
    """What each rule's threshold, from `prompts` labelled prompts, does with winners of fresh prompts."""
    precisions: dict[Rule, list[float]] = {}
    shares: dict[Rule, list[float]] = {}
    for seed in range(seeds):
        generator = np.random.default_rng([seed, case == "shared"])
        known, fresh = draw(case, prompts, n, generator), draw(case, _FRESH * prompts, n, generator)
        scores, labels = fresh.winners()
        for rule, threshold in _thresholds(known, wanted).items():
            accepted = scores >= threshold
            shares.setdefault(rule, []).append(float(accepted.mean()))
            precisions.setdefault(rule, []).append(float(labels[accepted].mean()) if accepted.any() else np.nan)
    return [_outcome(case, rule, n, wanted, precisions[rule], shares[rule]) for rule in precisions]


def _thresholds(known: World, wanted: float) -> dict[Rule, float]:
    return {
        "all candidates": threshold_for(*known.candidates(), wanted),
        "winners": threshold_for(*known.winners(), wanted),
        "winners, tested": tested_threshold(*known.winners(), wanted),
    }


def _outcome(
    case: Case, rule: Rule, n: int, wanted: float, precisions: list[float], shares: list[float]
) -> SimulatedWeek:
    found = np.array([value for value in precisions if not np.isnan(value)])
    short = int((found < wanted).sum())
    low, high = wilson(short, len(precisions))
    mean = interval = None
    if len(found):
        mean = round(float(found.mean()), 4)
    if len(found) > 1:
        half = 1.96 * float(found.std(ddof=1)) / len(found) ** 0.5
        interval = (round(float(found.mean()) - half, 4), round(float(found.mean()) + half, 4))
    return SimulatedWeek(
        case=case,
        rule=rule,
        n=n,
        wanted=wanted,
        precision=mean,
        precision_ci=interval,
        accepted=round(float(np.mean(shares)), 4),
        short=round(short / len(precisions), 4),
        short_ci=(low, high),
    )


HEADER = ("case", "threshold from", "wanted", "precision on fresh winners", "accepted", "worlds that fall short")


def rows(outcomes: Sequence[SimulatedWeek]) -> list[list[str]]:
    """Cells of the table, one row an outcome."""
    return [
        [
            outcome.case,
            outcome.rule,
            f"{outcome.wanted:.2f}",
            "none" if outcome.precision is None else _with_interval(outcome.precision, outcome.precision_ci, 3),
            f"{outcome.accepted:.0%}",
            _with_interval(outcome.short, outcome.short_ci, 2),
        ]
        for outcome in outcomes
    ]


def markdown(outcomes: Sequence[SimulatedWeek]) -> str:
    """The table for a document."""
    lines = [HEADER, ("---",) * len(HEADER), *rows(outcomes)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def simulation_report(outcomes: Sequence[SimulatedWeek]) -> Report:
    """The same as a page, with the precisions drawn."""
    report = Report("Thresholds from all candidates and from winners")
    for paragraph in str(__doc__).split("\n\n")[1:]:
        report.text(paragraph)
    report.table(HEADER, rows(outcomes), f"Winners of {outcomes[0].n}; 95 % intervals over the simulated worlds.")
    figure, axes = new_figure(height=0.4 * len(outcomes) + 1)
    shown = [o for o in outcomes if o.precision is not None and o.precision_ci is not None]
    for place, outcome in enumerate(shown):
        axes.plot(outcome.precision_ci, [place, place], color="tab:blue")
        axes.plot([outcome.precision], [place], "o", color="tab:blue")
    axes.axvline(outcomes[0].wanted, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [f"{o.case}: {o.rule}" for o in shown])
    axes.invert_yaxis()
    axes.set_xlabel("share of acceptable answers among accepted winners")
    report.figure(figure, "Precision on fresh winners; the line is the share that was wanted.")
    return report


def _with_interval(value: float, interval: tuple[float, float] | None, digits: int) -> str:
    shown = f"{value:.{digits}f}"
    return shown if interval is None else f"{shown} ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


@app.command()
def main(
    seeds: Annotated[int, typer.Option(min=2, help="Simulated worlds of each case.")] = 100,
    prompts: Annotated[int, typer.Option(min=100, help="Labelled prompts of a world.")] = 2000,
    n: Annotated[int, typer.Option(min=1, help="Candidates of a prompt.")] = 8,
    wanted: Annotated[float, typer.Option(min=0.5, max=0.99, help="Share of acceptable answers wanted.")] = 0.8,
    table: Annotated[bool, typer.Option(help="Print a Markdown table instead of JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a report with plots there.")] = None,
) -> None:
    """Show when a threshold from all candidates is wrong for the winners that are served, and when it is not."""
    outcomes = [o for case in CASES for o in simulate(case, seeds, prompts, n, wanted)]
    if html is not None:
        simulation_report(outcomes).write(html)
    print(markdown(outcomes) if table else "\n".join(json.dumps(o._asdict()) for o in outcomes))


if __name__ == "__main__":
    app()
