"""One request is one tree of spans, read from OpenTelemetry's own exporter in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.telemetry.otel import Tracing, open_tracing
from service.telemetry.tracing import NO_SPAN, Caller, incoming_trace, new_trace, outgoing_headers, request_span, span

_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_PARENT = f"00-{_TRACE}-00f067aa0ba902b7-01"


class Recorded:
    """Tracing into memory, and what it recorded."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(provider)

    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def only(self, name: str) -> ReadableSpan:
        (found,) = (span for span in self.spans() if span.name == name)
        return found


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def _attributes(recorded_span: ReadableSpan) -> Mapping[str, Any]:
    return recorded_span.attributes or {}


def _id(recorded_span: ReadableSpan) -> int:
    assert recorded_span.context is not None
    number: int = recorded_span.context.span_id
    return number


async def _run(recorded: Recorded, parent: str | None = _PARENT) -> dict[str, str]:
    """A request with a stage that fails, one that is cancelled, and a call within a third."""
    root = recorded.tracing.root("POST", incoming_trace(parent, "vendor=1"))
    with request_span(root, Caller("req-1", new_trace())):
        with pytest.raises(ValueError, match="secret"), span("route", {"winnow.route": "billing", "winnow.n": None}):
            raise ValueError("secret")
        with pytest.raises(asyncio.CancelledError), span("score"):
            raise asyncio.CancelledError
        with span("chat tiny", kind="client"):
            headers = outgoing_headers()
        root.rename("POST /v1/chat/completions")
    return headers


async def test_a_request_continues_its_callers_trace_and_passes_its_own_span_on(recorded: Recorded) -> None:
    headers = await _run(recorded)
    root, call = recorded.only("POST /v1/chat/completions"), recorded.only("chat tiny")
    assert {span.context.trace_id for span in recorded.spans() if span.context} == {int(_TRACE, 16)}
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert (root.kind, call.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert all(child.parent and child.parent.span_id == _id(root) for child in recorded.spans() if child is not root)
    assert headers == {
        "x-request-id": "req-1",
        "traceparent": f"00-{_TRACE}-{_id(call):016x}-01",
        "tracestate": "vendor=1",
    }


async def test_a_failed_stage_tells_its_error_by_type_alone(recorded: Recorded) -> None:
    await _run(recorded)
    route, score = recorded.only("route"), recorded.only("score")
    assert dict(_attributes(route)) == {"winnow.route": "billing", "error.type": "ValueError"}
    assert (route.status.status_code, route.status.description) == (StatusCode.ERROR, None)
    assert dict(_attributes(score)) == {"winnow.cancelled": True}
    assert score.status.status_code is StatusCode.UNSET
    assert not any(span.events for span in recorded.spans())


async def test_a_request_without_a_caller_begins_a_trace(recorded: Recorded) -> None:
    await _run(recorded, parent=None)
    assert recorded.only("POST /v1/chat/completions").parent is None


async def test_without_an_endpoint_there_is_no_tracing() -> None:
    async with open_tracing(None) as tracing:
        assert tracing is None
    with span("route") as stage:
        assert stage is NO_SPAN


async def test_spans_are_sent_to_the_collector(unused_tcp_port_factory: Any) -> None:
    """A collector's endpoint, as OTLP over HTTP defines it."""
    received: list[tuple[str, bytes]] = []

    async def collector(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        received.append((head.split(" ")[1], await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(collector, "127.0.0.1", port := unused_tcp_port_factory())
    async with server, open_tracing(f"http://127.0.0.1:{port}/") as tracing:
        assert tracing is not None
        tracing.root("POST /v1/chat/completions", None).end()
    ((path, body),) = received
    assert path == "/v1/traces"
    assert b"winnow-gateway" in body


async def test_a_reranked_request_is_one_tree_of_its_stages(start_gateway: Any, recorded: Recorded) -> None:
    async with start_gateway(tracing=recorded.tracing, routes={"billing": {"n": 3}}) as gateway:
        body = {"model": "winnow", "messages": [{"role": "user", "content": "I was charged twice"}], "max_tokens": 9}
        answer = (await gateway.post(headers={"traceparent": _PARENT}, json=body)).json()
        calls = gateway.policy.headers
    root = recorded.only("POST /v1/chat/completions")
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == "00f067aa0ba902b7"
    children = [span.name for span in recorded.spans() if span.parent and span.parent.span_id == _id(root)]
    model = gateway.settings.policy_model
    stages = ["admission", "admission", "route", "decide", "store", "respond"]
    assert sorted(children) == sorted([*stages, *[f"chat {model}"] * 3, *["scoring"] * 3])
    sampled = [span for span in recorded.spans() if span.name == f"chat {model}"]
    assert {_attributes(span)["winnow.candidate"] for span in sampled} == {0, 1, 2}
    for span_ in sampled:
        told = {name: value for name, value in _attributes(span_).items() if name.startswith("gen_ai")}
        assert told == {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": model,
            "gen_ai.request.max_tokens": 9,
            "gen_ai.usage.input_tokens": 7,
            "gen_ai.usage.output_tokens": 1,
            "gen_ai.response.finish_reasons": ("stop",),
        }
    # Each call upstream is a child of the span of its own candidate.
    assert {call["traceparent"].split("-")[2] for call in calls} == {f"{_id(span):016x}" for span in sampled}
    facts = _attributes(root)
    assert (facts["gen_ai.response.id"], facts["winnow.route"], facts["winnow.candidates"]) == (
        answer["id"],
        "billing",
        3,
    )
    assert (facts["winnow.decision"], facts["winnow.sent"]) == (
        answer["rerank"]["decision"],
        answer["rerank"]["sent"],
    )
    assert (facts["gen_ai.usage.input_tokens"], facts["gen_ai.usage.output_tokens"]) == (7, 3)


async def test_no_text_is_in_any_attribute(start_gateway: Any, recorded: Recorded, script: Any) -> None:
    secret = "xyzzy-4111"
    async with start_gateway(tracing=recorded.tracing) as gateway:
        gateway.policy.answer = lambda body, i: script([secret])
        await gateway.ask(f"I was charged twice {secret}", user=secret, metadata={"a": secret})
        await gateway.ask(f"hello {secret}", stream=True)
        gateway.policy.answer = lambda body, i: script([secret, secret], die_after=1)
        await gateway.ask(f"I was charged twice {secret}")
        await gateway.http.get(f"{gateway.url}/{secret}")
    assert len(recorded.spans()) > 30
    assert not any(secret in span.to_json() for span in recorded.spans())


async def test_a_streamed_answer_ends_its_spans(start_gateway: Any, recorded: Recorded) -> None:
    async with start_gateway(tracing=recorded.tracing) as gateway:
        await gateway.ask("hello", stream=True)
    root, call = recorded.only("POST /v1/chat/completions"), recorded.only(f"chat {gateway.settings.policy_model}")
    assert call.parent is not None
    assert call.parent.span_id == _id(root)
    assert _attributes(call)["gen_ai.usage.output_tokens"] == 1
    assert root.end_time is not None
    assert call.end_time is not None
    assert root.end_time >= call.end_time


async def test_probes_are_not_traced(start_gateway: Any, recorded: Recorded) -> None:
    async with start_gateway(tracing=recorded.tracing) as gateway:
        await gateway.http.get(f"{gateway.url}/livez")
    assert recorded.spans() == []
