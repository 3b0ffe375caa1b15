"""The metrics themselves, by concern. Label values are names of the gateway's or the operator's."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Edges at the budgets: 120 ms for scoring, whole seconds for sampling.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.08, 0.12, 0.2, 0.35, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)
_SCORES = (-10, -5, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 5, 10)
_SHARES = tuple(round(0.05 * step, 2) for step in range(1, 21))
_RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5)


class RequestMetrics:
    """Chat requests: how many, how they ended, how long they took, what they cost."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.total = Counter(
            "winnow_requests",
            "Chat requests by route, policy model, decision and HTTP status; 499: the client left.",
            ["route", "model", "decision", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "winnow_request_seconds",
            "Duration of chat requests, failed ones included.",
            ["route", "model", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.errors = Counter(
            "winnow_request_errors", "Requests that ended in an error, by its code.", ["code"], registry=registry
        )
        self.degraded = Counter(
            "winnow_degraded_requests", "Degraded answers, by the reason.", ["route", "reason"], registry=registry
        )
        self.inflight = Gauge("winnow_inflight_requests", "Requests in progress.", registry=registry)
        self.stage = Histogram(
            "winnow_stage_seconds",
            "Time in each stage of a request.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.tokens = Counter(
            "winnow_tokens",
            "Tokens of all requests, failed and cancelled ones included: prompts once, every candidate's completion.",
            ["route", "model", "kind"],
            registry=registry,
        )


class CandidateMetrics:
    """Candidates, their scores, and how the winner stands among them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.states = Counter(
            "winnow_candidates",
            "Candidates requested, completed, scored, stopped.",
            ["route", "state"],
            registry=registry,
        )
        self.score = Histogram(
            "winnow_candidate_score", "Raw score of each scored candidate.", buckets=_SCORES, registry=registry
        )
        self.winner_score = Histogram(
            "winnow_winner_score", "Raw score of the winner.", buckets=_SCORES, registry=registry
        )
        self.probability = Histogram(
            "winnow_winner_probability", "Calibrated probability of the winner.", buckets=_SHARES, registry=registry
        )
        self.uplift = Histogram(
            "winnow_winner_uplift_score",
            "Raw score of the winner minus that of the first sample.",
            buckets=_SCORES,
            registry=registry,
        )
        self.length_ratio = Histogram(
            "winnow_winner_length_ratio",
            "Completion tokens of the winner over the mean of the scored candidates.",
            buckets=_RATIOS,
            registry=registry,
        )


class UpstreamMetrics:
    """Policies and the scorer: failed calls, and the models in use."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.errors = Counter(
            "winnow_upstream_errors",
            "Failed calls of policies (`policy:NAME`) and the scorer, by the kind of failure.",
            ["upstream", "kind"],
            registry=registry,
        )
        self.circuit = Gauge(
            "winnow_circuit_state",
            "Whether calls of an upstream are kept back after failures in a row: 1 if so, else 0.",
            ["upstream"],
            registry=registry,
        )
        self.models = Gauge(
            "winnow_model_info",
            "Models in use: 1 for each kind and version.",
            ["kind", "version"],
            registry=registry,
        )


class HistoryMetrics:
    """Writing answers to the store."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.waiting = Gauge(
            "winnow_history_waiting_requests", "Answers waiting to be written to the store.", registry=registry
        )
        self.dropped = Counter(
            "winnow_history_dropped_requests", "Answers that were never written to the store.", registry=registry
        )
        self.failures = Counter("winnow_history_write_failures", "Failed writes to the store.", registry=registry)


class ReviewMetrics:
    """The queue of reviews and its webhook."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.open = Gauge("winnow_open_review_requests", "Tickets waiting for a reviewer.", registry=registry)
        self.oldest = Gauge("winnow_review_oldest_seconds", "Age of the oldest waiting ticket.", registry=registry)
        self.webhook_failures = Counter(
            "winnow_webhook_failures", "Failed deliveries of review events.", registry=registry
        )
        self.webhook_given_up = Counter(
            "winnow_webhook_given_up_events", "Review events that were never delivered.", registry=registry
        )


class AuditMetrics:
    """What the newest audit with labels says."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.agreement = Gauge(
            "winnow_audit_agreement_ratio",
            "How often annotators prefer what the reward model prefers, in the newest audit with labels.",
            ["audit"],
            registry=registry,
        )
        self.labels = Gauge("winnow_audit_labels", "Labels of that audit.", ["audit"], registry=registry)


class AdmissionMetrics:
    """Permits, and what was refused at a limit."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.inflight = Gauge("winnow_inflight_candidates", "Candidates that permits are held for.", registry=registry)
        self.refused = Counter(
            "winnow_refused_requests",
            "Requests refused at a limit: the requests, tokens or candidates of a tenant, or the gateway's candidates.",
            ["limit"],
            registry=registry,
        )
        self.shrunk = Counter(
            "winnow_shrunk_requests",
            "Requests answered with fewer candidates at a limit.",
            ["route"],
            registry=registry,
        )
        self.shared_failures = Counter(
            "winnow_shared_limits_failures", "Failed calls of the store of shared limits.", registry=registry
        )


class KeyMetrics:
    """The keys file."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.broken = Gauge(
            "winnow_keys_file_broken",
            "1 while the keys file cannot be read and the keys read before are in force.",
            registry=registry,
        )


class BackgroundMetrics:
    """The tasks beside the requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.failures = Counter(
            "winnow_background_failures",
            "Background tasks that failed and were restarted.",
            ["task"],
            registry=registry,
        )
