"""The scorer's metrics, over an injected registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.08, 0.12, 0.2, 0.35, 0.5, 1, 2, 4, 8, 15, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class ScorerMetrics:
    """One instance for each app."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter("winnow_scorer_requests", "Requests by outcome.", ["outcome"], registry=registry)
        self.batch_size = Histogram(
            "winnow_scorer_batch_size", "Completions in a forward pass.", buckets=_SIZES, registry=registry
        )
        self.batch_tokens = Histogram(
            "winnow_scorer_batch_tokens",
            "Tokens that a forward pass computes, padding included.",
            buckets=_TOKENS,
            registry=registry,
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
        self.prefix_tokens = Counter(
            "winnow_scorer_prefix_tokens",
            "Tokens before the new ones, whose keys and values were in the cache.",
            registry=registry,
        )
        self.prefix_bytes = Gauge("winnow_scorer_prefix_cache_bytes", "Keys and values kept.", registry=registry)
        self.models = Gauge("winnow_scorer_model_info", "Loaded models.", ["version", "calibrator"], registry=registry)
