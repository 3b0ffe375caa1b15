"""Whom the gateway calls learns the request's id and its trace, over real HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

_PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_every_call_of_a_request_carries_its_id_and_its_callers_trace(gateway: Any) -> None:
    headers = {"x-request-id": "abc-1", "traceparent": _PARENT, "tracestate": "vendor=1"}
    body = {"model": "winnow", "messages": [{"role": "user", "content": "I was charged twice"}]}
    answer = await gateway.post(headers=headers, json=body)
    assert answer.headers["x-request-id"] == "abc-1"
    assert len(gateway.policy.headers) == 8
    for call in gateway.policy.headers:
        assert {name: call[name] for name in headers} == headers


async def test_requests_at_once_do_not_share_a_trace(gateway: Any) -> None:
    answers = await asyncio.gather(gateway.ask("hello"), gateway.ask("hello"))
    calls = gateway.policy.headers
    assert {call["x-request-id"] for call in calls} == {answer.headers["x-request-id"] for answer in answers}
    assert len({call["traceparent"] for call in calls}) == 2
    assert not any("tracestate" in call for call in calls)


async def test_a_trace_that_is_none_is_replaced(gateway: Any) -> None:
    body = {"model": "winnow", "messages": [{"role": "user", "content": "hello"}]}
    await gateway.post(headers={"traceparent": "00-nonsense", "tracestate": "vendor=1"}, json=body)
    (call,) = gateway.policy.headers
    version, trace, parent, flags = call["traceparent"].split("-")
    assert (version, len(trace), len(parent), flags) == ("00", 32, 16, "00")
    assert "tracestate" not in call


async def test_a_probe_of_health_belongs_to_no_request(gateway: Any) -> None:
    await gateway.http.get(f"{gateway.url}/readyz")
    (call,) = gateway.policy.headers
    assert not {"x-request-id", "traceparent"} & call.keys()
