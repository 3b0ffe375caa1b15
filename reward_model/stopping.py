"""When sampling more is no longer worth its tokens. Pure: scores in, a choice out.

The rule is Weitzman's for Pandora's boxes (1979), at the margin: go on with a candidate, or sample another one, while
the expected gain over the best of the others is worth more than its cost. What a partial score says of the final one,
and how candidates spread, is measured when a checkpoint is calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

# The stopping rule under which every candidate is sampled to its end and scored.
ALL_SCORED = "all_scored"
# Of sums over a normal distribution: points, and how many deviations they reach.
_NODES, _REACH = 1_201, 6.0


class Mark(BaseModel):
    """How well the score of a completion's first `tokens` tells its final one, within a prompt:
    final = mean + slope * (partial + offset - mean) + noise of `deviation`, in raw scores."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    tokens: int = Field(gt=0)
    slope: float
    offset: float = Field(0.0, description="Final less partial score, on the mean.")
    deviation: float = Field(gt=0)
    correlation: float
    candidates: int = Field(gt=0, description="Completions longer than the mark that it was measured on.")


class PartialScores(BaseModel):
    """What partial scores are worth, measured on all candidates of `prompts` prompts."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    marks: list[Mark]
    winner_deviation: float = Field(gt=0, description="Standard deviation of the winners' scores over prompts.")
    prompts: int = Field(gt=0)
    policy: str | None = None

    def at(self, tokens: int) -> Mark | None:
        """The mark of so many tokens, if it was measured."""
        return next((mark for mark in self.marks if mark.tokens == tokens), None)


class ExpectedGain(BaseModel):
    """Stop a candidate at a mark when it is expected to raise the winner's score by less than `cost` standard
    deviations of winners' scores."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    cost: float = Field(gt=0)
    marks: tuple[int, ...] = Field(min_length=1)

    @field_validator("marks")
    @classmethod
    def _rise(cls, marks: tuple[int, ...]) -> tuple[int, ...]:
        if list(marks) != sorted(set(marks)) or marks[0] < 1:
            raise ValueError("marks are token counts that rise")
        return marks

    @property
    def name(self) -> str:
        """Names the stopping rule in a calibrator and in answers."""
        return f"expected_gain(cost={self.cost:g}, marks={'+'.join(map(str, self.marks))})"


class CandidateScores(BaseModel):
    """How raw scores of whole candidates spread: prompts' means about `mean` with deviation `between`, candidates about
    their own prompt's with `within`. Measured on all candidates of `prompts` prompts."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    mean: float
    between: float = Field(ge=0)
    within: float = Field(gt=0)
    prompts: int = Field(gt=0)


class Waves(BaseModel):
    """Sample `sizes[0]` candidates, then up to `sizes[1]` and so on, while one more is expected to raise the winner's
    probability by at least `cost`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    sizes: tuple[int, ...] = Field(min_length=2)
    cost: float = Field(gt=0, lt=1)

    @field_validator("sizes")
    @classmethod
    def _rise(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
            raise ValueError("waves are candidate counts that rise")
        return sizes

    @property
    def name(self) -> str:
        """Names it in a stopping rule."""
        return f"waves({'+'.join(map(str, self.sizes))}, cost={self.cost:g})"


class StoppingRule(BaseModel):
    """All that may end a request's sampling before every candidate has ended; nothing of it: `all_scored`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gain: ExpectedGain | None = None
    waves: Waves | None = None
    accept_from: float | None = Field(None, ge=0, le=1, description="Probability at which the rest is not waited for.")

    @property
    def name(self) -> str:
        """Names the rule in a calibrator and in answers."""
        early = None if self.accept_from is None else f"early_accept({self.accept_from:g})"
        parts = (self.waves and self.waves.name, self.gain and self.gain.name, early)
        return " ".join(part for part in parts if part) or ALL_SCORED

    def waves_of(self, n: int) -> tuple[int, ...]:
        """How many of `n` candidates have been begun after each wave."""
        return (*(size for size in (self.waves.sizes if self.waves else ()) if size < n), n)


def hopeless(
    known: PartialScores, cost: float, tokens: int, running: Mapping[int, float], ended: Mapping[int, float]
) -> list[int]:
    """Which of the `running` candidates to stop at the mark of `tokens`, by their partial scores.

    `ended` are the final scores of those that have ended. The candidate that is expected to win is never stopped; none
    is where nothing is known of the mark.
    """
    mark = known.at(tokens)
    if mark is None or not running:
        return []
    # Partial scores may all lie below final ones: without the offset every running candidate would seem to lag.
    shifted = {index: score + mark.offset for index, score in running.items()}
    mean = math.fsum((*shifted.values(), *ended.values())) / (len(running) + len(ended))
    expected = {index: mean + mark.slope * (score - mean) for index, score in shifted.items()} | dict(ended)
    best = max(expected, key=lambda index: expected[index])
    deviation = mark.deviation if best in ended else math.hypot(mark.deviation, mark.deviation)
    least = cost * known.winner_deviation
    return [
        index
        for index in running
        if index != best and expected_excess(expected[index] - expected[best], deviation) < least
    ]


def expected_rise(
    known: CandidateScores, probability: Callable[[NDArray[np.float64]], NDArray[np.float64]], seen: Sequence[float]
) -> float:
    """By how much one more candidate is expected to raise the winner's probability, after those with scores `seen`.

    Its score is normal about the prompt's mean, of which `seen` tells; the expectation is a trapezoidal sum.
    """
    spread, among = known.within**2, known.between**2
    # The prompt's mean, and what is not known of it: a normal prior and len(seen) observations.
    shrunk = among / (among + spread / len(seen))
    center = known.mean + shrunk * (math.fsum(seen) / len(seen) - known.mean)
    deviation = math.sqrt(spread + among * (1 - shrunk))
    nodes = np.linspace(-_REACH, _REACH, _NODES)
    weights = np.exp(-(nodes**2) / 2)
    rise = probability(center + deviation * nodes) - probability(np.array([max(seen)]))
    return float(weights @ np.maximum(rise, 0) / weights.sum())


def expected_excess(mean: float, deviation: float) -> float:
    """E[max(0, X)] of X normal: deviation * (density(z) + z * distribution(z)) with z = mean / deviation."""
    z = mean / deviation
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    distribution = math.erfc(-z / math.sqrt(2)) / 2
    return deviation * (density + z * distribution)
