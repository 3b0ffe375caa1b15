"""The client of a policy over HTTP: streams of every odd shape, and what it raises before the first chunk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from service.errors import ApiError, InvalidRequest, PolicyOverloaded, PolicyUnavailable
from service.settings import PolicySettings, UpstreamSettings
from service.upstream.guard import Guard
from service.upstream.policy import HttpPolicy
from tests.service.upstream.servers import Handler, serving

BODY = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}
HEAD = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}


def events(*chunks: dict[str, Any], done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(HEAD | chunk)}\n\n" for chunk in chunks]
    return ("".join(lines) + ("data: [DONE]\n\n" if done else "")).encode()


def delta(content: dict[str, Any] | None, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": content, "finish_reason": reason}]}


def streaming(*blocks: bytes, status: int = 200, kind: str = "text/event-stream", pause: float = 0) -> Handler:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"content-type": kind})
        await response.prepare(request)
        for block in blocks:
            await response.write(block)
            await asyncio.sleep(pause)
        return response

    return stream


async def sampled(handler: Handler, session: aiohttp.ClientSession) -> list[dict[str, Any]]:
    async with serving(web.post("/v1/chat/completions", handler)) as url:
        policy = HttpPolicy(PolicySettings(url=url, model="m"), session)
        return [chunk async for chunk in policy.sample(dict(BODY))]


async def relayed(handler: Handler, session: aiohttp.ClientSession) -> list[dict[str, Any]]:
    async with serving(web.post("/v1/chat/completions", handler)) as url:
        policy = HttpPolicy(PolicySettings(url=url, model="m"), session)
        return [json.loads(payload) async for block in policy.relay(dict(BODY)) for payload in block]


BOTH = pytest.mark.parametrize("ask", [sampled, relayed])
Ask = Callable[..., Any]


def text_of(chunks: list[dict[str, Any]], name: str = "content") -> str:
    return "".join(choice["delta"].get(name) or "" for chunk in chunks for choice in chunk["choices"])


@BOTH
@pytest.mark.parametrize("where", [{"index": None}, {}])
async def test_a_tool_call_without_an_index_is_one_call(
    ask: Ask, where: dict[str, Any], session: aiohttp.ClientSession
) -> None:
    first = {"id": "call_a", "type": "function", "function": {"name": "find_charge", "arguments": ""}}
    parts = [{"function": {"arguments": piece}} for piece in ('{"month"', ': "May"}')]
    stream = events(
        delta({"role": "assistant", "content": None, "tool_calls": [where | first]}),
        *(delta({"tool_calls": [where | part]}) for part in parts),
        delta({}, "tool_calls"),
        {"choices": [], "usage": USAGE},
    )
    chunks = await ask(streaming(stream), session)
    calls = [call for c in chunks for choice in c["choices"] for call in choice["delta"].get("tool_calls", [])]
    assert [call["index"] for call in calls] == [0, 0, 0]
    assert [call.get("id") for call in calls] == ["call_a", None, None]
    assert "".join(call["function"].get("name", "") for call in calls) == "find_charge"
    assert "".join(call["function"]["arguments"] for call in calls) == '{"month": "May"}'
    assert chunks[-1]["usage"] == USAGE


@BOTH
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_arrives_under_both_names(ask: Ask, name: str, session: aiohttp.ClientSession) -> None:
    stream = events(
        delta({"content": None, name: "First, "}), delta({"content": "", name: "look."}), delta({}, "length")
    )
    chunks = await ask(streaming(stream), session)
    assert text_of(chunks, "reasoning") == text_of(chunks, "reasoning_content") == "First, look."


@BOTH
async def test_null_deltas_roles_and_empty_choices_pass(ask: Ask, session: aiohttp.ClientSession) -> None:
    stream = events(
        delta({"role": "assistant"}),
        {"choices": None},
        delta(None),
        delta({"content": "a"}) | {"error": None},
        {"choices": [{"index": 1, "delta": {"content": "of another choice"}}]},
        delta({"content": "b"}, "stop"),
    )
    assert text_of(await ask(streaming(stream), session)) == "ab"


@BOTH
async def test_a_stream_that_is_cut_anywhere_is_the_same(ask: Ask, session: aiohttp.ClientSession) -> None:
    stream = b": hello\r\n\r\n" + events(delta({"content": "é"}), delta({"content": "奖"}), delta({}, "stop")).replace(
        b"\n", b"\r\n"
    ).replace(rb"\u00e9", "é".encode())
    cut = stream.index("é".encode()) + 1
    assert text_of(await ask(streaming(stream[:cut], stream[cut:], pause=0.05), session)) == "é奖"


@BOTH
async def test_a_finished_completion_needs_no_done(ask: Ask, session: aiohttp.ClientSession) -> None:
    whole = [delta({"content": "a"}), delta({}, "stop"), {"choices": [], "usage": USAGE}]
    assert text_of(await ask(streaming(events(*whole, done=False)), session)) == "a"
    with pytest.raises(PolicyUnavailable, match="before the completion was done") as caught:
        await ask(streaming(events(whole[0], done=False)), session)
    assert caught.value.kind == "broke_off"


@BOTH
@pytest.mark.parametrize("error", ["10.0.0.5", {"message": "10.0.0.5"}, [{"message": "10.0.0.5"}]])
@pytest.mark.parametrize("first", [True, False])
async def test_an_error_in_the_stream_is_raised_in_our_words(
    ask: Ask, error: Any, first: bool, session: aiohttp.ClientSession
) -> None:
    before = [] if first else [delta({"content": "a"})]
    with pytest.raises(PolicyUnavailable, match=r"^the policy failed while it sampled$"):
        await ask(streaming(events(*before, {"error": error})), session)


@BOTH
@pytest.mark.parametrize("kind", ["text/html", "text/event-stream", "application/json"])
async def test_a_web_page_is_an_error(ask: Ask, kind: str, session: aiohttp.ClientSession) -> None:
    with pytest.raises(PolicyUnavailable, match=r"^the policy") as caught:
        await ask(streaming(b"<html>10.0.0.5</html>", kind=kind), session)
    assert "10.0.0.5" not in str(caught.value)


@BOTH
async def test_a_server_that_does_not_stream_is_understood(ask: Ask, session: aiohttp.ClientSession) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "whole"}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice], "usage": USAGE}).encode()
    [chunk] = await ask(streaming(body, kind="application/json"), session)
    assert chunk["choices"][0]["delta"]["content"] == "whole"
    assert "message" not in chunk["choices"][0]
    assert chunk["usage"] == USAGE


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, InvalidRequest), (404, PolicyUnavailable), (429, PolicyOverloaded), (500, PolicyUnavailable)],
)
async def test_a_refusal_is_raised_before_the_first_block(
    status: int, error: type[ApiError], session: aiohttp.ClientSession
) -> None:
    handler = streaming(b'{"error": {"message": "10.0.0.5"}}', status=status, kind="application/json")
    async with serving(web.post("/v1/chat/completions", handler)) as url:
        policy = HttpPolicy(PolicySettings(url=url, model="m"), session)
        for ask in (policy.relay, policy.sample):
            blocks = ask(dict(BODY))
            with pytest.raises(ApiError) as caught:
                await anext(blocks)
            assert type(caught.value) is error
        with pytest.raises(ApiError) as caught:
            await policy.complete(dict(BODY))
        assert type(caught.value) is error


async def test_nobody_there_is_unreachable(session: aiohttp.ClientSession) -> None:
    async with serving() as url:
        pass
    with pytest.raises(PolicyUnavailable, match=r"^the policy cannot be reached$") as caught:
        await HttpPolicy(PolicySettings(url=url, model="m"), session).complete(dict(BODY))
    assert caught.value.kind == "unreachable"


@BOTH
async def test_a_connection_that_breaks_is_a_failure_unless_the_completion_was_done(
    ask: Ask, session: aiohttp.ClientSession
) -> None:
    def breaking(*chunks: dict[str, Any]) -> Handler:
        async def stream(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            await response.write(events(*chunks, done=False))
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.abort()
            return response

        return stream

    assert text_of(await ask(breaking(delta({"content": "a"}, "stop")), session)) == "a"
    with pytest.raises(PolicyUnavailable) as caught:
        await ask(breaking(delta({"content": "a"})), session)
    assert caught.value.kind == "broke_off"


@pytest.mark.parametrize(
    ("status", "answers"), [(200, True), (400, True), (429, True), (401, False), (404, False), (500, False)]
)
async def test_a_probe_completes_one_token(status: int, answers: bool, session: aiohttp.ClientSession) -> None:
    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        assert (body["max_completion_tokens"], body.get("stream")) == (1, None)
        choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "length"}
        return web.json_response({"choices": [choice]}, status=status)

    async with serving(web.post("/v1/chat/completions", complete)) as url:
        assert await HttpPolicy(PolicySettings(url=url, model="m", dialect="openai"), session).healthy() is answers


async def test_a_frozen_engine_does_not_answer_its_probe_and_opens_the_circuit(session: aiohttp.ClientSession) -> None:
    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": []})

    guard = Guard("policy", PolicyUnavailable, UpstreamSettings(failures=1, probe_seconds=0.1))
    async with serving(web.post("/v1/chat/completions", hang), web.get("/v1/models", models)) as url:
        assert not await HttpPolicy(PolicySettings(url=url, model="m"), session, guard).healthy()
    assert guard.circuit.open


async def test_an_error_in_mid_stream_counts_as_a_failure(session: aiohttp.ClientSession) -> None:
    guard = Guard("policy", PolicyUnavailable, UpstreamSettings(failures=2))
    handler = streaming(events(delta({"content": "a"}), {"error": "x"}))
    async with serving(web.post("/v1/chat/completions", handler)) as url:
        policy = HttpPolicy(PolicySettings(url=url, model="m"), session, guard)
        for ask in (policy.sample, policy.relay):
            with pytest.raises(PolicyUnavailable):
                _ = [chunk async for chunk in ask(dict(BODY))]
    assert guard.circuit.open
