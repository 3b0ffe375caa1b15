"""The scorer's metrics, over an injected registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.08, 0.12, 0.2, 0.35, 0.5, 1, 2, 4, 8, 15, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class ScorerMetrics:
    """One instance for each app."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter("winnow_scorer_requests", "Requests by outcome.", ["outcome"], registry=registry)
        self.batch_size = Histogram(
            "winnow_scorer_batch_size", "Completions in a forward pass.", buckets=_SIZES, registry=registry
        )
        self.batch_tokens = Histogram(
            "winnow_scorer_batch_tokens", "Padded tokens in a forward pass.", buckets=_TOKENS, registry=registry
        )
        self.padding = Histogram(
            "winnow_scorer_padding_ratio", "Padding in a forward pass.", buckets=_SHARES, registry=registry
        )
        self.queue = Histogram(
            "winnow_scorer_queue_seconds", "Wait for a forward pass.", buckets=_SECONDS, registry=registry
        )
        self.forward = Histogram(
            "winnow_scorer_forward_seconds", "Time of a forward pass.", buckets=_SECONDS, registry=registry
        )
        self.dropped = Counter(
            "winnow_scorer_dropped_completions", "Dropped before a forward pass.", ["reason"], registry=registry
        )
        self.models = Gauge("winnow_scorer_model_info", "Loaded models.", ["version", "calibrator"], registry=registry)
