"""A real server that speaks OpenAI's chat completions."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

Row = dict[str, Any]


@dataclass
class ChatServer:
    """What the server was asked, and what makes it fail."""

    url: str = ""
    asked: list[Row] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Answers, with their headers, that are given before any other; status 0 hangs up half-way."""
    broken_after: int | None = None
    delay: float = 0.0
    reply: Callable[[Row], Any] = lambda body: f"{body['model']} says {body['seed']}"

    def answer(self, body: Row, key: str | None) -> Any:
        self.asked.append(body)
        self.keys.append(key)
        if self.failures:
            status, headers = self.failures.pop(0)
            return JSONResponse({"error": {"message": "not now"}}, status, headers)
        if self.broken_after is not None and len(self.asked) > self.broken_after:
            return JSONResponse({"error": {"message": "no such key"}}, 401)
        if "too long" in body["messages"][-1]["content"]:
            return JSONResponse({"error": {"message": "context length"}}, 400)
        found = self.reply(body)
        message = found if isinstance(found, dict) else {"role": "assistant", "content": found}
        return {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


@pytest.fixture
def chat() -> Iterator[ChatServer]:
    """A server in a thread; its list of models holds `small` and `large`."""
    state = ChatServer()
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> Any:
        return {"data": [{"id": "small"}, {"id": "large"}]}

    # Not async: a delay must not hold up the others.
    @app.post("/v1/chat/completions")
    def complete(body: Row, request: Request) -> Any:
        time.sleep(state.delay)
        return state.answer(body, request.headers.get("authorization"))

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        state.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield state
        server.should_exit = True
        thread.join()
