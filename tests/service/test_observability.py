"""Health, models and metrics, the latter read by Prometheus' own parser."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families


async def _families(gateway: Any) -> dict[str, Any]:
    text = (await gateway.http.get(f"{gateway.url}/metrics")).text
    return {family.name: family for family in text_string_to_metric_families(text)}


def _value(family: Any, name: str, **labels: str) -> float:
    total: float = sum(s.value for s in family.samples if s.name == name and labels.items() <= s.labels.items())
    return total


async def test_metrics_count_what_happened(gateway: Any, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script(["word"] * (i + 1))
    gateway.scorer.value = lambda text: text.count("word") / 10
    await gateway.ask()
    await gateway.ask("hello")
    await gateway.ask(temperature=9)
    families = await _families(gateway)
    requests = families["winnow_requests"]
    assert _value(requests, "winnow_requests_total", route="billing", decision="accept") == 1
    assert _value(requests, "winnow_requests_total", route="default", decision="passthrough") == 1
    assert _value(families["winnow_request_errors"], "winnow_request_errors_total") == 1
    for state in ("requested", "completed", "scored"):
        assert _value(families["winnow_candidates"], "winnow_candidates_total", route="billing", state=state) == 8
    # 1 + 2 + ... + 8 tokens of candidates, then nine of the greedy one.
    assert _value(families["winnow_tokens"], "winnow_tokens_total", kind="completion") == 36 + 9
    assert _value(families["winnow_tokens"], "winnow_tokens_total", kind="prompt") == 14
    # The winner has 8 tokens, the pool's mean is 4.5.
    assert abs(_value(families["winnow_winner_length_ratio"], "winnow_winner_length_ratio_sum") - 8 / 4.5) < 1e-9
    assert _value(families["winnow_inflight_requests"], "winnow_inflight_requests") == 0
    scoring = families["winnow_stage_seconds"]
    assert any(s.labels.get("le") == "0.12" and s.labels["stage"] == "scoring" for s in scoring.samples)
    assert _value(families["winnow_model_info"], "winnow_model_info", kind="policy") == 1


async def test_names_follow_prometheus_conventions(gateway: Any) -> None:
    await gateway.ask()
    units = {"seconds", "ratio", "score", "probability", "requests", "candidates", "labels", "info"}
    # Gauges that are 0 or 1.
    units |= {"broken", "state"}
    for name, family in (await _families(gateway)).items():
        assert name.startswith("winnow_")
        if name.endswith("_created"):
            continue  # The client's own companion of a counter or histogram.
        assert family.documentation.endswith(".")
        if family.type in ("histogram", "gauge"):
            assert name.rsplit("_", 1)[1] in units, name
        if family.type == "counter":
            assert all(s.name.endswith(("_total", "_created")) for s in family.samples)
        assert all(len(value) < 60 for s in family.samples for value in s.labels.values())


async def test_models_are_listed_by_openai_python(gateway: Any) -> None:
    assert [model.id async for model in gateway.openai.models.list()] == ["winnow"]
    assert (await gateway.openai.models.retrieve("winnow")).owned_by == "winnow"
