"""Draining: requests in progress continue, new ones are refused, probes are answered."""

from __future__ import annotations

import asyncio

import orjson
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ShuttingDown
from service.telemetry.summary import note

_PROBES = frozenset({"/livez", "/readyz", "/health", "/metrics"})
_RETRY_SECONDS = 2


class Drain:
    """How far a gateway has stopped; set by the server, obeyed by `DrainMiddleware`."""

    def __init__(self) -> None:
        self.inflight = 0
        # Not ready any more.
        self.stopping = False
        # New requests are refused.
        self.refusing = False
        # No time is left: requests in flight are being cancelled.
        self.over = False


class DrainMiddleware:
    """Counts the requests at work and answers for a gateway that stops."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if self._drain.stopping and path == "/readyz":
            await _not_ready()(scope, receive, send)
        elif path in _PROBES:
            await self._app(scope, receive, send)
        elif self._drain.refusing:
            await self._refuse("the gateway is stopping; send the request again")(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        drain, started = self._drain, False

        async def observed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if drain.stopping:
                    MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        drain.inflight += 1
        try:
            await self._app(scope, receive, observed)
        except asyncio.CancelledError:
            if not drain.over:
                raise
            if not started:
                refusal = self._refuse("the gateway stopped before the answer was ready; send the request again")
                await refusal(scope, receive, send)
        finally:
            drain.inflight -= 1

    def _refuse(self, message: str) -> Response:
        error = ShuttingDown(message, retry_after=_RETRY_SECONDS)
        note(code=error.code or error.type)
        headers = {"retry-after": str(_RETRY_SECONDS), "connection": "close"}
        return Response(orjson.dumps(error.body()), error.status, headers, media_type="application/json")


def _not_ready() -> Response:
    body = orjson.dumps({"status": "stopping"})
    return Response(body, 503, {"connection": "close"}, media_type="application/json")
