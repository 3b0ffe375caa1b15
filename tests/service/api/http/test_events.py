"""Streams of server-sent events, at the ASGI seam."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from typing import Any

import pytest

from service.api.http.events import DONE, EventStream, event


class Client:
    """What a server sends to it; it leaves when it is told to."""

    def __init__(self) -> None:
        self.messages: list[MutableMapping[str, Any]] = []
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.messages.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)


class Source:
    """Events with a pause before each; knows whether it was closed."""

    def __init__(self, *events: bytes, pause: float = 0.0, fails: bool = False) -> None:
        self.closed = asyncio.Event()
        self._events, self._pause, self._fails = events, pause, fails

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        try:
            for payload in self._events:
                await asyncio.sleep(self._pause)
                yield payload
            if self._fails:
                raise ZeroDivisionError
        finally:
            self.closed.set()


async def run(source: Source, client: Client, keepalive_seconds: float = 60) -> None:
    stream = EventStream(source(), keepalive_seconds=keepalive_seconds, headers={"x-winnow-route": "billing"})
    await stream({"type": "http"}, client.receive, client.send)


async def test_events_go_out_as_they_come_and_the_response_ends() -> None:
    client = Client()
    await run(Source(event(b"{}"), event(b"[1]") + DONE), client)
    assert [m.get("body") for m in client.messages] == [None, b"data: {}\n\n", b"data: [1]\n\ndata: [DONE]\n\n", b""]
    assert [m.get("more_body") for m in client.messages] == [None, True, True, False]
    headers = dict(client.messages[0]["headers"])
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"x-accel-buffering"] == b"no"
    assert headers[b"x-winnow-route"] == b"billing"
    assert b"content-length" not in headers


async def test_silence_is_filled_with_comments_of_the_same_line_ending() -> None:
    client = Client()
    await run(Source(event(b"{}"), DONE, pause=0.3), client, keepalive_seconds=0.05)
    comments = client.body.count(b": winnow is sampling\n\n")
    assert comments >= 2
    assert b"\r" not in client.body
    events = [block for block in client.body.split(b"\n\n") if block and not block.startswith(b":")]
    assert events == [b"data: {}", b"data: [DONE]"]


async def test_a_stream_that_flows_needs_no_comment() -> None:
    client = Client()
    await run(Source(*[event(b"{}")] * 20, pause=0.01), client, keepalive_seconds=30)
    assert client.body == b"data: {}\n\n" * 20


async def test_a_client_that_leaves_ends_the_work() -> None:
    source, client = Source(event(b"{}"), event(b"{}"), pause=60), Client()
    task = asyncio.create_task(run(source, client))
    await asyncio.sleep(0.05)
    client.left.set()
    await asyncio.wait_for(task, 5)
    assert source.closed.is_set()
    assert client.body == b""


async def test_a_client_that_does_not_read_ends_the_work_too_when_it_leaves() -> None:
    """The source then waits at its `yield`, not in its own code."""
    source, client, blocked = Source(event(b"{}")), Client(), asyncio.Event()

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            blocked.set()
            await asyncio.Event().wait()

    stream = EventStream(source(), keepalive_seconds=60)
    task = asyncio.create_task(stream({"type": "http"}, client.receive, send))
    await blocked.wait()
    client.left.set()
    await asyncio.wait_for(task, 5)
    assert source.closed.is_set()


async def test_a_stream_that_is_cancelled_says_so_to_its_client() -> None:
    source, client = Source(event(b"{}"), DONE, pause=60), Client()
    task = asyncio.create_task(run(source, client))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed.is_set()
    assert b'"code":"shutting_down"' in client.body
    assert client.messages[-1]["more_body"] is False


async def test_a_defect_reaches_the_server_and_the_response_is_not_completed() -> None:
    client = Client()
    with pytest.raises(ZeroDivisionError):
        await run(Source(event(b"{}"), fails=True), client)
    assert client.messages[-1]["more_body"] is True
