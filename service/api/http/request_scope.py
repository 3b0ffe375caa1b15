"""What surrounds each request: its id, its trace, its span, and at its end one line in the log and its metrics."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable
from typing import Any

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.http.state import AppState
from service.telemetry import tracing
from service.telemetry.otel import root_span
from service.telemetry.summary import RequestSummary, begin_summary
from service.telemetry.tracing import NO_SPAN, Caller, Span, TraceParent, incoming_trace, new_trace, request_span

log = logging.getLogger("winnow.request")

_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CLIENT_CLOSED_REQUEST = 499
# What orchestrators ask every few seconds.
_PROBES = {"/livez", "/readyz", "/health", "/metrics"}
# Requests that sample; the others are not in the metrics of requests.
_CHATS = {"/v1/chat/completions", "/v1/completions", "/v1/responses"}


class RequestScope:
    """Gives each request an id (the client's x-request-id if it is a sane one), and records how it ended.

    Plain ASGI: what wraps a response's body would cost a task and a hand-over for every chunk of a stream.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        chosen = given if _SANE.fullmatch(given) else f"req-{os.urandom(12).hex()}"
        values = scope.setdefault("state", {})
        values["id"] = chosen
        parent = incoming_trace(headers.get("traceparent"), headers.get("tracestate"))
        summary, response = RequestSummary(chosen, scope["method"]), _Response(send, values)
        # A task of its own serves each request: what is bound here ends with it.
        structlog.contextvars.bind_contextvars(request_id=chosen)
        begin_summary(summary)
        state: AppState = scope["app"].state.winnow
        root = self._root(state, scope, parent)
        began = self._clock()
        try:
            with request_span(root, Caller(chosen, parent or new_trace())):
                try:
                    await self._app(scope, receive, response.send)
                except Exception:
                    # Whatever of a response was sent before.
                    summary.status, summary.code = 500, summary.code or "internal"
                    raise
                finally:
                    summary.path = getattr(scope.get("route"), "path", None)
                    summary.status = summary.status or response.status
                    summary.seconds = round(self._clock() - began, 6)
                    if root is not NO_SPAN:
                        _describe(root, summary)
        finally:
            _count(state, summary)
            log.log(logging.DEBUG if scope["path"] in _PROBES else logging.INFO, "request", extra=_line(summary))

    def _root(self, state: AppState, scope: Scope, parent: TraceParent | None) -> Span:
        probe = scope["path"] in _PROBES
        return root_span(None if probe else state.tracing, scope["method"], parent)


class _Response:
    """Passes a response on, with the headers that every response carries, and looks at how it went."""

    def __init__(self, send: Send, values: dict[str, Any]) -> None:
        self._send = send
        self._values = values
        self._started: int | None = None
        self._complete = False

    @property
    def status(self) -> int:
        """Its status; 500 if nothing was sent, 499 if it was broken off."""
        if self._started is None:
            return 500
        return self._started if self._complete else _CLIENT_CLOSED_REQUEST

    async def send(self, message: Message) -> None:
        """Pass one message on."""
        if message["type"] == "http.response.start":
            headers = message["headers"] = list(message.get("headers", ()))
            set_before = {name.lower() for name, _ in headers}
            # What a handler left for it.
            left = {"x-request-id": self._values["id"], **self._values.get("response_headers", {})}
            for name, value in left.items():
                if (encoded := name.lower().encode("latin-1")) not in set_before:
                    headers.append((encoded, value.encode("latin-1")))
            self._started = message["status"]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._complete = True


def _line(summary: RequestSummary) -> dict[str, object]:
    return {"request": summary.known()}


def _count(state: AppState, summary: RequestSummary) -> None:
    if summary.code is not None:
        state.metrics.request.errors.labels(summary.code).inc()
    if summary.path in _CHATS:
        state.metrics.count_request(
            summary.route, summary.model, summary.decision, summary.status or 500, summary.seconds
        )


def _describe(root: Span, summary: RequestSummary) -> None:
    """The span's name and attributes, by OpenTelemetry's names."""
    root.rename(f"{summary.method} {summary.path}" if summary.path else summary.method)
    root.set(
        {
            tracing.HTTP_METHOD: summary.method,
            tracing.HTTP_ROUTE: summary.path,
            tracing.HTTP_STATUS: summary.status,
            tracing.REQUEST_ID: summary.request_id,
            tracing.RESPONSE_ID: summary.response_id,
            tracing.REQUEST_MODEL: summary.model,
            tracing.INPUT_TOKENS: summary.prompt_tokens,
            tracing.OUTPUT_TOKENS: summary.completion_tokens,
            tracing.TENANT: summary.tenant,
            tracing.ROUTE: summary.route,
            tracing.DECISION: summary.decision,
            tracing.SENT: summary.sent,
            tracing.DEGRADED: summary.degraded,
            tracing.CANDIDATES: summary.n,
            tracing.ERROR_TYPE: summary.code,
        }
    )
