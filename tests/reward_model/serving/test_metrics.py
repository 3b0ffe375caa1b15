"""The scorer's metrics, read back with Prometheus' own parser."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from reward_model.serving.batcher import Batcher
from reward_model.serving.metrics import ScorerMetrics


async def test_a_batch_of_known_sizes_gives_known_values() -> None:
    registry = CollectorRegistry()
    queue: Batcher[Any, float] = Batcher(lambda rows: [0.0] * len(rows), 100, 10, ScorerMetrics(registry), number=float)
    queue.start()
    await queue.score([1, 2, 3])
    await queue.stop()
    families = {f.name: f for f in text_string_to_metric_families(generate_latest(registry).decode())}
    values = {s.name: s.value for f in families.values() for s in f.samples}
    assert values["winnow_scorer_batch_size_sum"] == 1
    assert values["winnow_scorer_batch_tokens_sum"] == 3
    assert values["winnow_scorer_queue_seconds_count"] == values["winnow_scorer_forward_seconds_count"] == 1
    edges = {s.labels["le"] for s in families["winnow_scorer_forward_seconds"].samples if "le" in s.labels}
    assert "0.12" in edges, "the scoring budget is an edge"


def test_two_apps_live_in_one_process_and_every_family_says_what_it_is() -> None:
    registry = CollectorRegistry()
    ScorerMetrics(CollectorRegistry())
    metrics = ScorerMetrics(registry)
    metrics.requests.labels("ok").inc()
    metrics.models.labels("tiny@1", "none").set(1)
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert families
    for family in families:
        assert family.name.startswith("winnow_scorer_")
        assert family.documentation.endswith(".")
        if family.type == "counter":
            assert all(s.name.endswith(("_total", "_created")) for s in family.samples)
