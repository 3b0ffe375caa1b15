"""A fake OpenAI server with known delays, on its own thread so that it cannot share the client's stalls."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(rerank: dict[str, Any] | None = None, tokens: int = 7) -> dict[str, Any]:
    """The body of a chat completion, with our `rerank` object or as a plain server would send it."""
    message = {"role": "assistant", "content": "Hello."}
    body: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    body["usage"] = {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens}
    return body | ({"rerank": rerank} if rerank else {})


class FakeServer:
    """Serves `handler`, a coroutine that a test may replace, and remembers when each request came."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, dict[str, Any]]] = []
        self.authorization: list[str | None] = []
        self.url = ""
        self.models_status = 200
        self.handler: Handler = self.reply
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    async def reply(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(answer())

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((time.monotonic(), json.loads(await request.read())))
        self.authorization.append(request.headers.get("authorization"))
        return await self.handler(request)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": []}, status=self.models_status)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    def __enter__(self) -> FakeServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
def completion() -> Callable[..., dict[str, Any]]:
    return answer
