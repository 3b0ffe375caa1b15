"""Trace context by the W3C's rules, and spans that nest across tasks without a tracing library."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextvars import copy_context

import pytest

from service.telemetry.tracing import (
    Attributes,
    Caller,
    NoSpan,
    SpanKind,
    TraceParent,
    incoming_trace,
    new_trace,
    outgoing_headers,
    request_span,
    span,
)

_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
_PARENT = f"00-{_TRACE}-00f067aa0ba902b7-01"


class TreeSpan:
    """Writes down the tree as paths, in the order of the ends."""

    def __init__(self, path: str, ended: list[tuple[str, str | None]]) -> None:
        self.path = path
        self.ended = ended
        self.parent_of_calls: TraceParent | None = TraceParent(f"00-{_TRACE}-{len(path):016x}-01")

    def child(self, name: str, kind: SpanKind, attributes: Attributes) -> TreeSpan:
        return TreeSpan(f"{self.path}/{name}", self.ended)

    def rename(self, name: str) -> None:
        raise NotImplementedError

    def set(self, attributes: Attributes) -> None:
        raise NotImplementedError

    def end(self, error: BaseException | None = None) -> None:
        self.ended.append((self.path, type(error).__name__ if error else None))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "garbage",
        _PARENT.upper(),
        f"ff-{_TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{_TRACE}-{'0' * 16}-01",
        f"{_PARENT}-more",
        f"{_PARENT}\n",
    ],
)
def test_what_is_no_traceparent_begins_no_trace(header: str | None) -> None:
    assert incoming_trace(header, "vendor=1") is None


def test_a_traceparent_is_kept_with_its_state() -> None:
    assert incoming_trace(_PARENT, "vendor=1") == TraceParent(_PARENT, "vendor=1")
    assert incoming_trace(_PARENT, "vendor=\x01") == TraceParent(_PARENT, None)
    assert incoming_trace(_PARENT, "v" * 513) == TraceParent(_PARENT, None)


def test_a_new_trace_is_valid_unsampled_and_its_own() -> None:
    first, second = new_trace(), new_trace()
    assert incoming_trace(first.traceparent, None) == first
    assert first.traceparent.endswith("-00")
    assert first != second


def test_calls_outside_a_request_carry_nothing() -> None:
    assert copy_context().run(outgoing_headers) == {}


def test_an_untraced_request_passes_its_callers_trace_on() -> None:
    def request() -> None:
        with request_span(NoSpan(), Caller("req-1", TraceParent(_PARENT, "vendor=1"))), span("route") as stage:
            stage.set({"winnow.route": "billing"})
            assert outgoing_headers() == {"x-request-id": "req-1", "traceparent": _PARENT, "tracestate": "vendor=1"}

    copy_context().run(request)


async def test_spans_nest_across_tasks_and_say_how_they_ended() -> None:
    ended: list[tuple[str, str | None]] = []

    async def candidate(name: str, seconds: float) -> str:
        with span(name):
            await asyncio.sleep(seconds)
            return outgoing_headers()["traceparent"]

    async def request() -> None:
        with request_span(TreeSpan("", ended), Caller("req-1", new_trace())):
            with span("sampling"):
                slow = asyncio.create_task(candidate("slow", 60))
                assert await asyncio.create_task(candidate("fast", 0)) == f"00-{_TRACE}-{len('/sampling/fast'):016x}-01"
                slow.cancel()
                await asyncio.gather(slow, return_exceptions=True)
            with pytest.raises(ValueError, match="broken"), span("respond"):
                raise ValueError("broken")

    await asyncio.create_task(request())
    assert ended == [
        ("/sampling/fast", None),
        ("/sampling/slow", "CancelledError"),
        ("/sampling", None),
        ("/respond", "ValueError"),
        ("", None),
    ]


async def test_a_stream_may_be_closed_in_another_context() -> None:
    ended: list[tuple[str, str | None]] = []

    async def stream() -> AsyncGenerator[int, None]:
        with span("sampling"):
            yield 1
            yield 2

    async def request() -> AsyncGenerator[int, None]:
        with request_span(TreeSpan("", ended), Caller("req-1", new_trace())):
            chunks = stream()
            assert await anext(chunks) == 1
        return_later.append(chunks)
        yield 0

    return_later: list[AsyncGenerator[int, None]] = []
    assert [value async for value in request()] == [0]
    await asyncio.create_task(return_later[0].aclose())
    assert ended == [("", None), ("/sampling", "GeneratorExit")]
