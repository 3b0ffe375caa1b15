"""The result of sampling and scoring: the candidates, and what stopped them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from service.errors import ScorerUnavailable
from service.request.candidate import Candidate

StopReason = Literal[
    "all_scored", "expected_gain", "early_accept", "deadline", "candidates_failed", "scorer_failed", "passthrough"
]


@dataclass(frozen=True)
class Pool:
    """The candidates of a request, the reward model that scored them, and how it went."""

    candidates: tuple[Candidate, ...]
    orm: str | None = None
    calibrator: dict[str, Any] | None = None
    accepted_early: bool = False
    timed_out: bool = False
    scorer_error: ScorerUnavailable | None = None

    @property
    def scored(self) -> list[Candidate]:
        """Candidates with a score."""
        return [candidate for candidate in self.candidates if candidate.score is not None]

    @property
    def completed(self) -> list[Candidate]:
        """Candidates that the policy ended, the first to end first."""
        return sorted((c for c in self.candidates if c.finished), key=lambda c: (c.finished_at or 0.0, c.index))

    @property
    def stop_reason(self) -> StopReason:
        """Why no more was sampled or scored."""
        if self.accepted_early:
            return "early_accept"
        stopped = sum(candidate.stopped for candidate in self.candidates)
        # An empty reply needs no score: it is never sent as an answer.
        judged = sum(c.score is not None or (c.finished and c.empty) for c in self.candidates)
        if judged + stopped == len(self.candidates):
            return "expected_gain" if stopped else "all_scored"
        if self.timed_out:
            return "deadline"
        return "scorer_failed" if self.scorer_error else "candidates_failed"
