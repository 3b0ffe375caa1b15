"""Spans recorded by OpenTelemetry (the extra `otel`) and sent to a collector over OTLP/HTTP.

Sampling, resource attributes and exporter headers are read from OpenTelemetry's own OTEL_* variables.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from service.errors import ApiError, SetupError
from service.telemetry.tracing import (
    CANCELLED,
    ERROR_TYPE,
    NO_SPAN,
    Attributes,
    Span,
    SpanKind,
    TraceParent,
    was_cancelled,
)

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

_MISSING = "traces_endpoint needs OpenTelemetry: pip install 'winnow-rerank[otel]'"


class Tracing:
    """Makes the root span of each request."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("winnow", version("winnow-rerank"))

    def root(self, name: str, parent: TraceParent | None) -> Span:
        """A server span, continuing its caller's trace."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {} if parent is None else {"traceparent": parent.traceparent, "tracestate": parent.tracestate or ""}
        return _start(self._tracer, name, "server", {}, TraceContextTextMapPropagator().extract(carrier))


class OtelSpan:
    """A span of OpenTelemetry's."""

    def __init__(self, tracer: trace.Tracer, recorded: trace.Span) -> None:
        self._tracer = tracer
        self._recorded = recorded

    @property
    def parent_of_calls(self) -> TraceParent:
        """Calls made now are this span's children."""
        context = self._recorded.get_span_context()
        trace_id, span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        state = context.trace_state.to_header() or None
        return TraceParent(f"00-{trace_id}-{span_id}-{context.trace_flags:02x}", state)

    def child(self, name: str, kind: SpanKind, attributes: Attributes) -> Span:
        """A stage within this one."""
        from opentelemetry.trace import set_span_in_context

        return _start(self._tracer, name, kind, attributes, set_span_in_context(self._recorded))

    def rename(self, name: str) -> None:
        """Name it anew."""
        self._recorded.update_name(name)

    def set(self, attributes: Attributes) -> None:
        """Add attributes; those that are None are left out."""
        self._recorded.set_attributes({name: value for name, value in attributes.items() if value is not None})

    def end(self, error: BaseException | None = None) -> None:
        """An error is told by its type or code: its message may quote what was sent."""
        from opentelemetry.trace import StatusCode

        if was_cancelled(error):
            self._recorded.set_attribute(CANCELLED, True)
        elif error is not None:
            code = error.code if isinstance(error, ApiError) else None
            self._recorded.set_attribute(ERROR_TYPE, code or type(error).__name__)
            self._recorded.set_status(StatusCode.ERROR)
        self._recorded.end()


def _start(
    tracer: trace.Tracer, name: str, kind: SpanKind, attributes: Attributes, context: Context | None
) -> OtelSpan:
    from opentelemetry.trace import SpanKind as Kind

    started = OtelSpan(tracer, tracer.start_span(name, context, Kind[kind.upper()]))
    started.set(attributes)
    return started


@asynccontextmanager
async def open_tracing(endpoint: str | None) -> AsyncIterator[Tracing | None]:
    """Tracing into a collector while the block runs; None without an endpoint."""
    if endpoint is None:
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SetupError(_MISSING) from error
    name = os.environ.get("OTEL_SERVICE_NAME", "winnow-gateway")
    resource = Resource.create({"service.name": name, "service.version": version("winnow-rerank")})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    try:
        yield Tracing(provider)
    finally:
        # It waits for the collector to take the last spans.
        await asyncio.to_thread(provider.shutdown)


def root_span(tracing: Tracing | None, name: str, parent: TraceParent | None) -> Span:
    """A request's first span; one that nobody records without tracing."""
    return NO_SPAN if tracing is None else tracing.root(name, parent)
