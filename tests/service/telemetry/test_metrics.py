"""What is counted of a request, by figures worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry

from service.telemetry.metrics import Metrics, tokens_spent


@dataclass
class Completion:
    """A candidate as far as it is counted."""

    prompt_tokens: int = 7
    completion_tokens: int = 0
    score: float | None = None
    probability: float | None = None
    stopped: bool = False
    finished: bool = True


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def _sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def _bucket(metrics: Metrics, name: str) -> float:
    """The only value of a histogram, to the edge above it: the client exposes no sum where values may be negative."""
    (family,) = (family for family in metrics.registry.collect() if family.name == name)
    assert _sample(metrics, f"{name}_count") == 1
    return min(float(s.labels["le"]) for s in family.samples if s.name == f"{name}_bucket" and s.value == 1)


def test_the_prompt_is_spent_once_and_every_completion_counts() -> None:
    assert tokens_spent([Completion(7, 3), Completion(7, 5), Completion(0, 0)]) == (7, 8)
    assert tokens_spent([]) == (0, 0)


def test_an_answer_is_counted_with_its_candidates_and_its_winner(metrics: Metrics) -> None:
    first = Completion(completion_tokens=2, score=1.5, probability=0.4)
    winner = Completion(completion_tokens=6, score=4.0, probability=0.9)
    cut = Completion(completion_tokens=3, stopped=True, finished=False)
    metrics.count_answer("billing", "policy-a", [first, winner, cut], winner, "deadline")
    tokens = {"route": "billing", "model": "policy-a"}
    assert _sample(metrics, "winnow_tokens_total", **tokens, kind="prompt") == 7
    assert _sample(metrics, "winnow_tokens_total", **tokens, kind="completion") == 11
    counts = {"requested": 3, "completed": 2, "scored": 2, "stopped": 1}
    for state, count in counts.items():
        assert _sample(metrics, "winnow_candidates_total", route="billing", state=state) == count
    assert _sample(metrics, "winnow_degraded_requests_total", route="billing", reason="deadline") == 1
    assert _sample(metrics, "winnow_candidate_score_count") == 2
    assert _sample(metrics, "winnow_candidate_score_bucket", le="1.5") == 1
    assert _bucket(metrics, "winnow_winner_score") == 4.0
    assert _sample(metrics, "winnow_winner_probability_sum") == 0.9
    # 4.0 - 1.5, between the edges 2 and 3.
    assert _bucket(metrics, "winnow_winner_uplift_score") == 3.0
    # Six tokens over the mean of two and six: the stopped candidate has no score.
    assert _sample(metrics, "winnow_winner_length_ratio_sum") == 1.5


def test_a_greedy_answer_has_no_winner_to_compare(metrics: Metrics) -> None:
    metrics.count_answer("default", "policy-a", [Completion(completion_tokens=4)])
    assert _sample(metrics, "winnow_tokens_total", route="default", model="policy-a", kind="completion") == 4
    assert _sample(metrics, "winnow_winner_score_count") == 0
    assert _sample(metrics, "winnow_winner_length_ratio_count") == 0


def test_a_winner_without_probability_or_first_score_is_still_counted(metrics: Metrics) -> None:
    winner = Completion(completion_tokens=0, score=-1.0)
    metrics.count_answer("fraud", "policy-a", [Completion(), winner], winner)
    assert _bucket(metrics, "winnow_winner_score") == -1.0
    for name in ("winner_probability", "winner_uplift_score", "winner_length_ratio"):
        assert _sample(metrics, f"winnow_{name}_count") == 0


def test_a_failure_costs_tokens_and_has_no_scores(metrics: Metrics) -> None:
    metrics.count_failure("billing", "policy-a", [Completion(completion_tokens=5, finished=False, score=2.0)])
    assert _sample(metrics, "winnow_tokens_total", route="billing", model="policy-a", kind="completion") == 5
    assert _sample(metrics, "winnow_candidates_total", route="billing", state="completed") == 0
    assert _sample(metrics, "winnow_candidate_score_count") == 0


def test_a_request_is_counted_by_how_it_ended(metrics: Metrics) -> None:
    metrics.count_request("billing", "policy-a", "accept", 200, 1.5)
    metrics.count_request("billing", "policy-a", None, 502, 0.25)
    metrics.count_request(None, None, None, 401, 0.001)
    for decision, status in (("accept", "200"), ("none", "502")):
        labels = {"route": "billing", "model": "policy-a", "decision": decision, "status": status}
        assert _sample(metrics, "winnow_requests_total", **labels) == 1
    nobody = {"route": "none", "model": "none", "status": "401"}
    assert _sample(metrics, "winnow_requests_total", **nobody, decision="none") == 1
    assert _sample(metrics, "winnow_request_seconds_count", **nobody) == 1
    failed = {"route": "billing", "model": "policy-a", "status": "502"}
    assert _sample(metrics, "winnow_request_seconds_sum", **failed) == 0.25


def test_a_stage_is_timed_once_for_the_answer_and_the_histogram(metrics: Metrics) -> None:
    timings: dict[str, float] = {}
    with pytest.raises(ValueError, match="broken"), metrics.stage("route", timings):
        raise ValueError("broken")
    seconds = _sample(metrics, "winnow_stage_seconds_sum", stage="route")
    assert seconds is not None
    # A stage that fails took its time too.
    assert timings == {"route": round(seconds * 1000, 2)}
    metrics.observe("total", 0.0123456, timings)
    assert timings["total"] == 12.35
