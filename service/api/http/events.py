"""Server-sent events: data and keep-alive comments with one line ending, and work that ends with its client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import ShuttingDown
from service.telemetry.summary import note


def event(payload: bytes) -> bytes:
    """One event that carries `payload`, which holds no line break."""
    return b"data: " + payload + b"\n\n"


DONE = event(b"[DONE]")
_SHUTDOWN = ShuttingDown("the gateway stopped before the answer was complete; send it again")
_CUT = event(orjson.dumps(_SHUTDOWN.body()))


class EventStream(Response):
    """A response that sends what `events` yields, whole events each time, and a comment when it has been silent.

    The generator is closed when the client leaves. A gateway that has no time left cancels the response, which then
    ends with an error event.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        keepalive_seconds: float,
        comment: str = "winnow is sampling",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        # nginx would collect the stream in a buffer otherwise.
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"} | dict(headers or {}))
        self._events = events
        self._keepalive_seconds = keepalive_seconds
        self._comment = f": {comment}\n\n".encode()
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; returns when it ended or the client left."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        relay = asyncio.create_task(self._relay(send))
        tasks = [relay, asyncio.create_task(self._keep_alive(send)), asyncio.create_task(_disconnected(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await _cancel(tasks)
            note(code=_SHUTDOWN.code or _SHUTDOWN.type, status=_SHUTDOWN.status)
            await send({"type": "http.response.body", "body": _CUT, "more_body": False})
            raise
        finally:
            await _cancel(tasks)
        if not relay.cancelled():
            relay.result()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _relay(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            async for block in events:
                self._sent_at = asyncio.get_running_loop().time()
                await send({"type": "http.response.body", "body": block, "more_body": True})

    async def _keep_alive(self, send: Send) -> None:
        """Blocks are whole events, so a comment may stand between any two."""
        clock = asyncio.get_running_loop().time
        self._sent_at = clock()
        while True:
            await asyncio.sleep(max(0.0, self._sent_at + self._keepalive_seconds - clock()))
            if clock() - self._sent_at >= self._keepalive_seconds:
                self._sent_at = clock()
                await send({"type": "http.response.body", "body": self._comment, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
