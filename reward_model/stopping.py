"""When a candidate that is still sampled is no longer worth its tokens. Pure: partial scores in, a choice out.

The rule is Weitzman's for Pandora's boxes (1979), at the margin: go on with a candidate while the expected gain of its
final score over the best other one is worth more than its cost. What a partial score says of the final one is measured
when a checkpoint is calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, field_validator

# The stopping rule under which every candidate is sampled to its end and scored.
ALL_SCORED = "all_scored"


class Mark(BaseModel):
    """How well the score of a completion's first `tokens` tells its final one, within a prompt:
    final = mean + slope * (partial - mean) + noise of `deviation`, in raw scores."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    tokens: int = Field(gt=0)
    slope: float
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
    mean = math.fsum((*running.values(), *ended.values())) / (len(running) + len(ended))
    expected = {index: mean + mark.slope * (score - mean) for index, score in running.items()} | dict(ended)
    best = max(expected, key=lambda index: expected[index])
    deviation = mark.deviation if best in ended else math.hypot(mark.deviation, mark.deviation)
    least = cost * known.winner_deviation
    return [
        index
        for index in running
        if index != best and expected_excess(expected[index] - expected[best], deviation) < least
    ]


def expected_excess(mean: float, deviation: float) -> float:
    """E[max(0, X)] of X normal: deviation * (density(z) + z * distribution(z)) with z = mean / deviation."""
    z = mean / deviation
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    distribution = math.erfc(-z / math.sqrt(2)) / 2
    return deviation * (density + z * distribution)
