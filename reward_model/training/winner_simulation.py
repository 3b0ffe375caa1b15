"""When is a threshold that was fitted on all candidates wrong for winners? A simulation of both cases.

`independent`: a candidate's label and score depend on its own quality alone. Knowing that it had the highest score
of N says nothing beyond the score, so a threshold from all candidates holds for winners too.

`shared`: label and score depend on the prompt's easiness, which the calibrator does not see, and the score on noise of
each candidate. Having won with a score means that the siblings scored lower, hence that the prompt was harder than the
score suggests: winners are acceptable less often than candidates of the same score, and only a threshold from
winners keeps its promise. (The winner's curse of best-of-N.)

    python -m reward_model.training.winner_simulation
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Case = Literal["independent", "shared"]
Floats = NDArray[np.float64]

WANTED = 0.8
_NOISE, _SLOPE, _OFFSET = 1.0, 2.0, -1.0


class World(NamedTuple):
    """Scores and labels [prompts, N]."""

    scores: Floats
    labels: NDArray[np.bool_]

    def winners(self) -> tuple[Floats, NDArray[np.bool_]]:
        """Score and label of each prompt's best candidate."""
        best = self.scores.argmax(1)
        rows = np.arange(len(best))
        return self.scores[rows, best], self.labels[rows, best]


def draw(case: Case, prompts: int, n: int, generator: np.random.Generator) -> World:
    """One world: quality is each candidate's own, or one easiness for all candidates of a prompt."""
    quality = generator.normal(size=(prompts, n if case == "independent" else 1))
    scores = quality + _NOISE * generator.normal(size=(prompts, n))
    chance = 1 / (1 + np.exp(-(_SLOPE * quality + _OFFSET)))
    return World(scores, generator.random((prompts, n)) < chance)


def threshold_for(scores: Floats, labels: NDArray[np.bool_], wanted: float) -> float:
    """The lowest score from which on at least `wanted` of the labels are positive; infinite where there is none."""
    order = np.argsort(-scores)
    precision = np.cumsum(labels[order]) / np.arange(1, len(order) + 1)
    # The first few are too few to mean anything.
    met = np.flatnonzero((precision >= wanted) & (np.arange(len(order)) >= 30))
    return float(scores[order][met[-1]]) if len(met) else float("inf")


def simulate(case: Case, seeds: int = 20, prompts: int = 3000, n: int = 8, wanted: float = WANTED) -> dict[str, Any]:
    """Precision among accepted winners of fresh prompts, by the threshold of all candidates and of winners.

    Means over `seeds` worlds with 95 % intervals of the mean.
    """
    naive: list[float] = []
    aware: list[float] = []
    for seed in range(seeds):
        generator = np.random.default_rng([seed, case == "shared"])
        known, fresh = draw(case, prompts, n, generator), draw(case, 10 * prompts, n, generator)
        scores, labels = fresh.winners()
        for found, seen in ((naive, (known.scores.ravel(), known.labels.ravel())), (aware, known.winners())):
            accepted = scores >= threshold_for(*seen, wanted)
            found.append(labels[accepted].mean() if accepted.any() else np.nan)
    return {"case": case, "wanted": wanted, "n": n, "naive": _summary(naive), "winner_aware": _summary(aware)}


def _summary(values: list[float]) -> dict[str, float]:
    half = 1.96 * np.nanstd(values, ddof=1) / np.sqrt(len(values))
    mean = float(np.nanmean(values))
    return {"precision": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| case | wanted | threshold from all candidates | threshold from winners |", "|---|---|---|---|"]
    for result in results:
        cells = [
            "{precision:.3f} ({low:.3f} to {high:.3f})".format(**result[name]) for name in ("naive", "winner_aware")
        ]
        lines.append(f"| {result['case']} | {result['wanted']:.2f} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([simulate("independent"), simulate("shared")]))
