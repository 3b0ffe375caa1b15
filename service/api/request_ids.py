"""Headers of every response: the id that a request goes by in logs and answers, and what its handler left for it."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SANE = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestIds:
    """Gives each request an id, the client's x-request-id if it is a sane one, and each response the same.

    Plain ASGI: what wraps a response's body would cost a task and a hand-over for every chunk of a stream.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        chosen = given if _SANE.fullmatch(given) else f"req-{secrets.token_hex(12)}"
        state = scope.setdefault("state", {})
        state["id"] = chosen

        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = chosen
                for name, value in state.get("response_headers", {}).items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, labelled)
