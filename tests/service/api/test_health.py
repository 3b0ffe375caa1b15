"""Probes of orchestrators: what they are told, by which status, and what they cost the upstreams."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import JSONResponse

QUIET = {"upstreams": {"failures": 3, "pause_seconds": 60, "probe_seconds": 0.3}}


async def get(gateway: Any, path: str) -> Any:
    return await gateway.http.get(f"{gateway.url}{path}")


async def test_ready_names_upstreams_and_routes(gateway: Any) -> None:
    ready = await get(gateway, "/readyz")
    assert ready.status_code == 200
    assert ready.json() == {
        "status": "ready",
        "upstreams": {"scorer": "up", "policy:default": "up"},
        "routes": {"billing": "ready", "fraud": "ready", "default": "ready"},
        "store": "up",
        "problems": [],
    }


async def test_a_scorer_that_is_down_leaves_the_gateway_ready_where_routes_do_without(gateway: Any) -> None:
    gateway.scorer.down = True
    ready = await get(gateway, "/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    assert ready.json()["routes"]["billing"] == "degraded"
    assert ready.json()["problems"] == ["scorer does not answer"]
    health = (await get(gateway, "/health")).json()
    assert (health["status"], health["profile"]) == ("degraded", "standard")
    # As promised: an answer, and not an error.
    assert (await gateway.ask()).json()["rerank"]["degraded"] == "scorer_failed"


async def test_a_policy_that_is_down_makes_it_unready(start_gateway: Any) -> None:
    async with start_gateway(**QUIET) as gateway:
        gateway.policy.answer = lambda body, i: JSONResponse({"error": "10.0.0.5"}, 500)
        ready = await get(gateway, "/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert "10.0.0.5" not in ready.text
        assert (await get(gateway, "/livez")).status_code == 200


async def test_a_frozen_engine_is_not_ready(start_gateway: Any, script: Any) -> None:
    async with start_gateway(**QUIET) as gateway:
        gateway.policy.answer = lambda body, i: script(["never"], pause=5)
        assert (await get(gateway, "/readyz")).status_code == 503


async def test_thirty_probes_are_one_call_and_traffic_makes_it_none(gateway: Any) -> None:
    responses = await asyncio.gather(*(get(gateway, "/readyz") for _ in range(30)))
    assert {response.status_code for response in responses} == {200}
    [probe] = gateway.policy.bodies
    assert probe["max_tokens"] == 1
    await gateway.ask("hello")
    await get(gateway, "/readyz")
    assert len(gateway.policy.bodies) == 2


async def test_an_open_circuit_fails_fast_with_retry_after_and_shows(start_gateway: Any) -> None:
    async with start_gateway(**QUIET) as gateway:
        gateway.policy.answer = lambda body, i: JSONResponse({}, 500)
        for _ in range(3):
            assert (await gateway.ask("hello")).json()["error"]["message"] == "the policy answered with status 500"
        refused = await gateway.ask("hello")
        assert (refused.status_code, refused.json()["error"]["code"]) == (502, "policy_unavailable")
        assert 58 <= int(refused.headers["retry-after"]) <= 60
        assert len(gateway.policy.bodies) == 3
        assert (await get(gateway, "/readyz")).status_code == 503
        assert len(gateway.policy.bodies) == 3
        health = (await get(gateway, "/health")).json()
        assert health["circuits"] == {"scorer": "closed", "policy:default": "open"}
        sample = gateway.registry.get_sample_value
        assert sample("winnow_circuit_state", {"upstream": "policy:default"}) == 1
        for kind, count in (("failed", 3), ("circuit_open", 1)):
            labels = {"upstream": "policy:default", "kind": kind}
            assert sample("winnow_upstream_errors_total", labels) == count


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics"])
async def test_head_has_the_status_of_get(gateway: Any, path: str) -> None:
    head = await gateway.http.head(f"{gateway.url}{path}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == (await get(gateway, path)).headers["content-type"]


async def test_head_is_503_where_get_is(start_gateway: Any) -> None:
    async with start_gateway(**QUIET) as gateway:
        gateway.policy.answer = lambda body, i: JSONResponse({}, 500)
        assert (await gateway.http.head(f"{gateway.url}/readyz")).status_code == 503


async def test_the_store_is_said(start_gateway: Any, tmp_path: Any) -> None:
    async with start_gateway(store={"url": f"sqlite:///{tmp_path}/winnow.db"}) as gateway:
        assert (await get(gateway, "/readyz")).json()["store"] == "up"
