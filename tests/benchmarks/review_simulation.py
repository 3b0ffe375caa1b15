"""What review verdicts say of all answers, naively and weighted: `python -m tests.benchmarks.review_simulation`.

Answers have probabilities all over 0..1, and a calibrator that is right in the middle and too sure of itself at both
ends. Everything between the thresholds is reviewed, and of the rest a small share. As they come, the verdicts show a
calibrator that is right and a share of acceptable answers that is not that of the traffic; weighted by 1/chance they
show what is true of all answers.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reward_model.estimates import expected_calibration_error, weighted_share

Floats = NDArray[np.float64]
_REVIEW, _ACCEPT = 0.3, 0.6


class Week(NamedTuple):
    """Answers of a week: probability shown, whether a reviewer would send it, chance of a review. Arrays [answers]."""

    probability: Floats
    acceptable: Floats
    chance: Floats


def simulate(generator: np.random.Generator, answers: int = 20_000, spot_check: float = 0.03) -> Week:
    """A week of traffic, most of it at the ends, as where a router sends easy questions too."""
    probability = generator.beta(0.7, 0.5, answers)
    acceptable = (generator.random(answers) < truth(probability)).astype(float)
    between = (probability >= _REVIEW) & (probability < _ACCEPT)
    return Week(probability, acceptable, np.where(between, 1.0, spot_check))


def truth(probability: Floats) -> Floats:
    """P(acceptable) of an answer that shows this probability: right between the thresholds, nearer to them outside."""
    nearer = np.clip(probability, _REVIEW, _ACCEPT)
    return nearer + 0.5 * (probability - nearer)


def measure(draws: int = 1_000, seed: int = 0) -> dict[str, Any]:
    """Means over `draws` weeks, and how often a 95 % interval of the acceptable share holds the true one."""
    generator = np.random.default_rng(seed)
    # What is true of the traffic, from as many answers as all the weeks have in a hundredth.
    large = simulate(generator, 1_000_000)
    share = float(truth(large.probability).mean())
    # Bins are 0.1 wide; within one the gap between shown and true hardly changes.
    error = expected_calibration_error(large.probability, truth(large.probability))
    found: dict[str, list[tuple[float, float, bool]]] = {"naive": [], "weighted": []}
    for _ in range(draws):
        week = simulate(generator)
        seen = generator.random(len(week.chance)) < week.chance
        shown, said, chance = (column[seen] for column in week)
        for name, weights in (("naive", np.ones(len(said))), ("weighted", 1 / chance)):
            estimate = weighted_share(said, weights)
            covered = estimate.ci[0] <= share <= estimate.ci[1]
            ece = expected_calibration_error(shown, said, weights=weights)
            found[name].append((float(estimate.value or 0.0), ece, covered))
    table = {}
    for name, rows in found.items():
        acceptable, ece, hold = np.mean(np.array(rows, dtype=float), axis=0).round(4).tolist()
        table[name] = {"acceptable": acceptable, "ece": ece, "intervals_that_hold": hold}
    return {"draws": draws, "true": {"acceptable": round(share, 4), "ece": round(error, 4)}, **table}


if __name__ == "__main__":
    print(json.dumps(measure()))
