"""Measuring and counting what the gateway does, in the metrics of an injected registry (`telemetry.instruments`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from types import TracebackType
from typing import Literal, NamedTuple, Protocol

from prometheus_client import CollectorRegistry

from service.telemetry.instruments import (
    AdmissionMetrics,
    AuditMetrics,
    BackgroundMetrics,
    CandidateMetrics,
    HistoryMetrics,
    KeyMetrics,
    RequestMetrics,
    ReviewMetrics,
    UpstreamMetrics,
)
from service.telemetry.tracing import Span, span

Stage = Literal[
    "admission", "route", "first_token", "sampling", "scoring", "scoring_tail", "decide", "respond", "store", "total"
]

# The label of a request that ended before it had a route, a model or a decision.
_NONE = "none"


class CountedCandidate(Protocol):
    """What is counted of a candidate."""

    prompt_tokens: int
    completion_tokens: int
    score: float | None
    probability: float | None
    stopped: bool

    @property
    def finished(self) -> bool:
        """Whether the policy ended it."""


class TokensSpent(NamedTuple):
    """Tokens of one request: its prompt once, and the completions of all its candidates."""

    prompt: int
    completion: int


def tokens_spent(candidates: Sequence[CountedCandidate]) -> TokensSpent:
    """What a request cost so far; candidates share the prompt."""
    prompt = max((candidate.prompt_tokens for candidate in candidates), default=0)
    return TokensSpent(prompt, sum(candidate.completion_tokens for candidate in candidates))


class StageTimer:
    """Times a stage, within a span of the same name."""

    def __init__(self, metrics: Metrics, name: Stage, timings_ms: dict[str, float] | None) -> None:
        self._metrics = metrics
        self._name = name
        self._timings_ms = timings_ms
        self._span = span(name)
        self._began = 0.0

    def __enter__(self) -> Span:
        self._began = time.perf_counter()
        return self._span.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._metrics.observe(self._name, time.perf_counter() - self._began, self._timings_ms)
        self._span.__exit__(kind, error, trace)


class Metrics:
    """The gateway's metrics by concern; one instance for each app."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.request = RequestMetrics(registry)
        self.candidate = CandidateMetrics(registry)
        self.upstream = UpstreamMetrics(registry)
        self.history = HistoryMetrics(registry)
        self.review = ReviewMetrics(registry)
        self.audit = AuditMetrics(registry)
        self.admission = AdmissionMetrics(registry)
        self.keys = KeyMetrics(registry)
        self.background = BackgroundMetrics(registry)
        # Looking a child up by its labels costs several times what counting does.
        self._stages = cache(self.request.stage.labels)
        self._requests = cache(self.request.total.labels)
        self._seconds = cache(self.request.seconds.labels)
        self._tokens = cache(self.request.tokens.labels)
        self._states = cache(self.candidate.states.labels)

    def stage(self, name: Stage, timings_ms: dict[str, float] | None = None) -> StageTimer:
        """Time a stage into its histogram and a request's `timings_ms`, within a span of the same name."""
        return StageTimer(self, name, timings_ms)

    def observe(self, name: Stage, seconds: float, timings_ms: dict[str, float] | None = None) -> None:
        """Record one measured stage."""
        if timings_ms is not None:
            timings_ms[name] = round(seconds * 1000, 2)
        self._stages(name).observe(seconds)

    def count_request(
        self, route: str | None, model: str | None, decision: str | None, status: int, seconds: float
    ) -> None:
        """Count a chat request once, at its end, with the status that its client saw."""
        labels = route or _NONE, model or _NONE
        self._requests(*labels, decision or _NONE, str(status)).inc()
        self._seconds(*labels, str(status)).observe(seconds)

    def count_answer(
        self,
        route: str,
        model: str,
        candidates: Sequence[CountedCandidate],
        winner: CountedCandidate | None = None,
        degraded: str | None = None,
    ) -> None:
        """Count an answer: its candidates and tokens, how its winner stands among them, why it is degraded."""
        self._count_candidates(route, model, candidates)
        if degraded is not None:
            self.request.degraded.labels(route, degraded).inc()
        scored = [(c.score, c.completion_tokens) for c in candidates if c.score is not None]
        for score, _ in scored:
            self.candidate.score.observe(score)
        if winner is None or winner.score is None:
            return
        self.candidate.winner_score.observe(winner.score)
        if winner.probability is not None:
            self.candidate.probability.observe(winner.probability)
        if (first := candidates[0].score) is not None:
            self.candidate.uplift.observe(winner.score - first)
        if mean := sum(tokens for _, tokens in scored) / len(scored):
            self.candidate.length_ratio.observe(winner.completion_tokens / mean)

    def count_failure(self, route: str, model: str, candidates: Sequence[CountedCandidate]) -> None:
        """Count what a request without an answer spent, be it failed or cancelled."""
        self._count_candidates(route, model, candidates)

    def _count_candidates(self, route: str, model: str, candidates: Sequence[CountedCandidate]) -> None:
        spent = tokens_spent(candidates)
        self._tokens(route, model, "prompt").inc(spent.prompt)
        self._tokens(route, model, "completion").inc(spent.completion)
        counts = {
            "requested": len(candidates),
            "completed": sum(candidate.finished for candidate in candidates),
            "scored": sum(candidate.score is not None for candidate in candidates),
            "stopped": sum(candidate.stopped for candidate in candidates),
        }
        for state, count in counts.items():
            self._states(route, state).inc(count)
