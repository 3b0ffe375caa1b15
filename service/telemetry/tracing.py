"""Spans of a request, and the trace context that is propagated upstream.

The names of OpenTelemetry's semantic conventions stand here and nowhere else. `span` is what the rest of the gateway
calls: it needs no library, and costs one look at a variable when nothing is recorded. No attribute holds a text of a
prompt, a reply or an error.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol

# https://opentelemetry.io/docs/specs/semconv/gen-ai/
OPERATION = "gen_ai.operation.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_CHOICES = "gen_ai.request.choice.count"
REQUEST_SEED = "gen_ai.request.seed"
RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
ERROR_TYPE = "error.type"
HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
# Ours: what no convention names.
REQUEST_ID = "winnow.request_id"
TENANT = "winnow.tenant"
ROUTE = "winnow.route"
DECISION = "winnow.decision"
SENT = "winnow.sent"
DEGRADED = "winnow.degraded"
CANDIDATE = "winnow.candidate"
CANDIDATES = "winnow.candidates"
CANCELLED = "winnow.cancelled"

Attribute = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, Attribute | None]
SpanKind = Literal["internal", "client", "server"]

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[ -~]{1,512}")


@dataclass(frozen=True, slots=True)
class TraceParent:
    """W3C trace context: who is calling, to be told to whom we call."""

    traceparent: str
    tracestate: str | None = None


class Span(Protocol):
    """A stage under way."""

    @property
    def parent_of_calls(self) -> TraceParent | None:
        """The trace context of calls made within this span; None if it is not recorded."""

    def child(self, name: str, kind: SpanKind, attributes: Attributes) -> Span:
        """A stage within this one."""

    def rename(self, name: str) -> None:
        """Name it anew."""

    def set(self, attributes: Attributes) -> None:
        """Add attributes; those that are None are left out."""

    def end(self, error: BaseException | None = None) -> None:
        """The stage is over."""


class NoSpan:
    """A span that nobody records."""

    parent_of_calls: TraceParent | None = None

    def child(self, name: str, kind: SpanKind, attributes: Attributes) -> Span:
        """Nothing within it is recorded either."""
        return self

    def rename(self, name: str) -> None:
        """It has no name."""

    def set(self, attributes: Attributes) -> None:
        """Dropped."""

    def end(self, error: BaseException | None = None) -> None:
        """Nothing to end."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What a request tells whom it calls: its id, and its trace if no span is recorded."""

    request_id: str
    trace: TraceParent


NO_SPAN: Span = NoSpan()
_UNRECORDED = nullcontext(NO_SPAN)
_caller: ContextVar[Caller | None] = ContextVar("winnow_caller", default=None)
_span: ContextVar[Span] = ContextVar("winnow_span", default=NO_SPAN)


def incoming_trace(traceparent: str | None, tracestate: str | None) -> TraceParent | None:
    """The caller's trace context; None without a valid one."""
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        return None
    return TraceParent(traceparent, tracestate if tracestate and _TRACESTATE.fullmatch(tracestate) else None)


def new_trace() -> TraceParent:
    """A trace that begins here, and that nobody has sampled."""
    digits = os.urandom(24).hex()
    return TraceParent(f"00-{digits[:32]}-{digits[32:]}-00")


def outgoing_headers() -> dict[str, str]:
    """Headers of a call upstream: the request's id and its trace; none outside a request."""
    if (caller := _caller.get()) is None:
        return {}
    trace = _span.get().parent_of_calls or caller.trace
    headers = {"x-request-id": caller.request_id, "traceparent": trace.traceparent}
    return headers | ({"tracestate": trace.tracestate} if trace.tracestate else {})


def request_span(root: Span, caller: Caller) -> AbstractContextManager[Span]:
    """Make `root` the span of this request and of every task that it starts."""
    _caller.set(caller)
    return _UNRECORDED if root is NO_SPAN else _current(root)


def span(name: str, attributes: Attributes | None = None, kind: SpanKind = "internal") -> AbstractContextManager[Span]:
    """A stage of the current request; outside one, or untraced, nothing is recorded."""
    if (parent := _span.get()) is NO_SPAN:
        return _UNRECORDED
    return _current(parent.child(name, kind, attributes or {}))


def recording() -> bool:
    """Whether the current request is traced: only then its spans need attributes."""
    return _span.get() is not NO_SPAN


def chat_name(model: str) -> str:
    """The convention's name for a span that asks `model` for a completion."""
    return f"chat {model}"


@contextmanager
def _current(active: Span) -> Iterator[Span]:
    before, error = _span.get(), None
    _span.set(active)
    try:
        yield active
    except BaseException as raised:
        error = raised
        raise
    finally:
        # Not a token's reset: an async generator may be closed in another context than it began in.
        _span.set(before)
        active.end(error)


def was_cancelled(error: BaseException | None) -> bool:
    """Whether a stage was ended from outside rather than failed: early stopping, or a client that left."""
    return isinstance(error, asyncio.CancelledError | GeneratorExit)
