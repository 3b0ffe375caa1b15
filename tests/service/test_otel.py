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

from service.otel import Tracing, open_tracing
from service.tracing import NO_SPAN, Caller, incoming_trace, new_trace, outgoing_headers, request_span, span

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
