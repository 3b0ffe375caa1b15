"""Every metric of the gateway, over an injected registry. Label values are ours, never a client's text."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Stage = Literal["route", "first_token", "sampling", "scoring", "scoring_tail", "total"]

# Edges at the budgets: 120 ms for scoring, whole seconds for sampling.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.08, 0.12, 0.2, 0.35, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)
_SCORES = (-10, -5, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 5, 10)
_SHARES = tuple(round(0.05 * step, 2) for step in range(1, 21))
_RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5)


class Metrics:
    """The gateway's metrics; one instance for each app."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter("winnow_requests", "Answered chat requests.", ["route", "decision"], registry=registry)
        self.errors = Counter("winnow_request_errors", "Requests that got an error.", ["code"], registry=registry)
        self.degraded = Counter(
            "winnow_degraded_requests",
            "Answers that were less than they could be.",
            ["reason"],
            registry=registry,
        )
        self.history_waiting = Gauge(
            "winnow_history_waiting_requests", "Answers that wait to be written to the store.", registry=registry
        )
        self.history_dropped = Counter(
            "winnow_history_dropped_requests", "Answers that the store never got.", registry=registry
        )
        self.history_failures = Counter(
            "winnow_history_write_failures", "Failed tries to write to the store.", registry=registry
        )
        self.reviews_open = Gauge("winnow_open_review_requests", "Tickets that wait for a person.", registry=registry)
        self.review_oldest = Gauge(
            "winnow_review_oldest_seconds", "Age of the oldest ticket that waits.", registry=registry
        )
        self.webhook_failures = Counter(
            "winnow_webhook_failures", "Tries to tell another system of a review that failed.", registry=registry
        )
        self.background_failures = Counter(
            "winnow_background_failures",
            "Background tasks that failed and were restarted.",
            ["task"],
            registry=registry,
        )
        self.audit_agreement = Gauge(
            "winnow_audit_agreement_ratio",
            "How often people prefer what the reward model prefers, in the newest audit with labels.",
            ["audit"],
            registry=registry,
        )
        self.audit_labels = Gauge("winnow_audit_labels", "Labels of that audit.", ["audit"], registry=registry)
        self.inflight = Gauge("winnow_inflight_requests", "Requests at work now.", registry=registry)
        self.stage = Histogram(
            "winnow_stage_seconds",
            "Time in each stage of a request.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.candidates = Counter(
            "winnow_candidates",
            "Candidates requested, completed, scored, stopped.",
            ["route", "state"],
            registry=registry,
        )
        self.tokens = Counter(
            "winnow_tokens",
            "Tokens spent: prompts once, all candidates' completions.",
            ["kind"],
            registry=registry,
        )
        self.score = Histogram(
            "winnow_candidate_score",
            "Raw score of each scored candidate.",
            buckets=_SCORES,
            registry=registry,
        )
        self.winner_score = Histogram(
            "winnow_winner_score", "Raw score of the winner.", buckets=_SCORES, registry=registry
        )
        self.probability = Histogram(
            "winnow_winner_probability",
            "Calibrated probability of the winner.",
            buckets=_SHARES,
            registry=registry,
        )
        self.uplift = Histogram(
            "winnow_winner_uplift_score",
            "Raw score of the winner minus that of the first sample.",
            buckets=_SCORES,
            registry=registry,
        )
        self.length_ratio = Histogram(
            "winnow_winner_length_ratio",
            "Completion tokens of the winner over the mean of its pool.",
            buckets=_RATIOS,
            registry=registry,
        )
        self.upstream_errors = Counter(
            "winnow_upstream_errors", "Failed calls of policy and scorer.", ["upstream"], registry=registry
        )
        self.models = Gauge(
            "winnow_model_info",
            "Models in use: 1 for each kind and version.",
            ["kind", "version"],
            registry=registry,
        )

    @contextmanager
    def timed(self, stage: Stage, timings_ms: dict[str, float]) -> Iterator[None]:
        """Measure a stage into its histogram and into a request's `timings_ms`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.observe(stage, time.perf_counter() - began, timings_ms)

    def observe(self, stage: Stage, seconds: float, timings_ms: dict[str, float]) -> None:
        """Take in one measured stage."""
        timings_ms[stage] = round(seconds * 1000, 2)
        self.stage.labels(stage).observe(seconds)
