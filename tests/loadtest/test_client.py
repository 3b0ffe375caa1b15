"""One request: what is sent, what is read, and which failure is which."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from loadtest.client import RequestOutcome, Target, ask, check, parse_server_timing
from loadtest.errors import BadTarget
from loadtest.workload import Arrival

BILLING = Arrival(0.0, "billing", "Why was I charged twice?")


async def measure(server: Any, *, late_s: float = 0.0, timeout_s: float = 5.0, url: str = "") -> RequestOutcome:
    target = Target.parse(url or server.url, model="winnow", max_tokens=96, api_key="secret")
    async with aiohttp.ClientSession(headers=target.headers()) as session:
        scheduled = asyncio.get_running_loop().time() - late_s
        return await ask(session, target, BILLING, scheduled, timeout_s)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_what_is_sent_and_what_is_read(server: Any, completion: Callable[..., dict[str, Any]]) -> None:
    timings = {"route": 1.5, "first_token": 40, "total": 90.25, "note": "x", "none": None}
    rerank = {"route": "billing", "decision": "accept", "degraded": "deadline", "timings_ms": timings}

    async def reply(_: web.Request) -> web.StreamResponse:
        return web.json_response(completion(rerank, tokens=640))

    server.handler = reply
    outcome = await measure(server)
    sent = {"role": "user", "content": BILLING.prompt}
    assert server.seen[0][1] == {"model": "winnow", "messages": [sent], "max_tokens": 96}
    assert server.authorization == ["Bearer secret"]
    assert (outcome.error, outcome.kind, outcome.route, outcome.decision) == (
        None,
        "billing",
        "billing",
        "accept",
    )
    assert (outcome.degraded, outcome.completion_tokens) == ("deadline", 640)
    assert outcome.stages_ms == {"route": 1.5, "first_token": 40.0, "total": 90.25}


async def test_a_plain_openai_server_is_measured_too(server: Any, completion: Callable[..., dict[str, Any]]) -> None:
    async def reply(_: web.Request) -> web.StreamResponse:
        return web.json_response(completion(), headers={"server-timing": "app;dur=12.5, db"})

    server.handler = reply
    outcome = await measure(server)
    assert (outcome.error, outcome.route, outcome.decision) == (None, None, None)
    assert outcome.stages_ms == {"app": 12.5}


async def test_latency_counts_from_the_scheduled_time_not_from_the_send(server: Any) -> None:
    outcome = await measure(server, late_s=0.4)
    assert 400 <= outcome.late_ms < 450
    assert 400 <= outcome.latency_ms < 900


async def test_a_known_delay_is_what_is_measured(server: Any) -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.25)
        response: web.StreamResponse = await server.reply(request)
        return response

    server.handler = reply
    assert 250 <= (await measure(server)).latency_ms < 600


async def test_the_timeout_runs_from_the_scheduled_time(server: Any) -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(5)
        response: web.StreamResponse = await server.reply(request)
        return response

    server.handler = reply
    outcome = await measure(server, late_s=0.2, timeout_s=0.3)
    assert outcome.error == "timeout"
    assert 300 <= outcome.latency_ms < 450


@pytest.mark.parametrize("status", [307, 401, 429, 500, 503])
async def test_a_status_is_an_error_of_that_name(server: Any, status: int) -> None:
    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"location": "/elsewhere"})

    server.handler = reply
    assert (await measure(server)).error == f"http_{status}"


@pytest.mark.parametrize(
    "body",
    ["not json", "[]", "{}", '{"choices": []}', '{"choices": [{"message": "text"}]}', "[" * 100_000],
)
async def test_a_body_that_is_no_completion(server: Any, body: str) -> None:
    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(text=body)

    server.handler = reply
    assert (await measure(server)).error == "bad_body"


async def test_a_dropped_connection(server: Any) -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server.handler = reply
    assert (await measure(server)).error == "connection"
    assert (await measure(server, url=f"http://127.0.0.1:{closed_port()}")).error == "connection"


@pytest.mark.parametrize("url", ["gateway:8000", "ftp://host", "http://", "", "/v1"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(BadTarget, match="http"):
        Target.parse(url, model="m", max_tokens=1, api_key=None)


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_the_url_may_end_in_v1(url: str) -> None:
    target = Target.parse(url, model="m", max_tokens=1, api_key=None)
    assert target.base_url == "http://h:1"
    assert target.headers() == {}


@pytest.mark.parametrize(("status", "message"), [(401, "refuses the API key"), (404, "HTTP 404")])
async def test_check_refuses_what_is_no_endpoint(server: Any, status: int, message: str) -> None:
    server.models_status = status
    async with aiohttp.ClientSession() as session:
        with pytest.raises(BadTarget, match=message):
            await check(session, Target(server.url, "m", 1))


async def test_check_says_when_nothing_answers() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(BadTarget, match="is the gateway running"):
            await check(session, Target(f"http://127.0.0.1:{closed_port()}", "m", 1))


def test_server_timing_headers() -> None:
    assert parse_server_timing('route;dur=0.8, sampling;desc="8 of 8";dur=812, cache') == {
        "route": 0.8,
        "sampling": 812.0,
    }
    assert parse_server_timing("") == {}
