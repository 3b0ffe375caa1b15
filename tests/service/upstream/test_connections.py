"""The pool of connections: keep-alive, nothing from the environment, nothing from one request to the next."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from service.settings import UpstreamSettings
from service.upstream.connections import open_session, send
from tests.service.upstream.servers import serving

_PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_no_proxy_no_cookies_no_redirects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    cookies = list[str | None]()

    async def answer(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("cookie"))
        response = web.Response(status=302, headers={"location": "http://127.0.0.1:9/"})
        response.set_cookie("tenant", "acme")
        return response

    async with serving(web.get("/", answer)) as url, open_session(UpstreamSettings()) as session:
        for _ in range(2):
            # A jar would keep no cookie of a numeric address.
            async with await send(session, "GET", url.replace("127.0.0.1", "localhost"), {}) as response:
                assert response.status == 302
    assert cookies == [None, None]


async def test_sockets_are_kept_alive_and_limited() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=bytes(2**22))

    async with serving(web.get("/", answer)) as url, open_session(UpstreamSettings(connections=7)) as session:
        async with await send(session, "GET", url, {}) as response:
            assert response.connection is not None
            assert response.connection.transport is not None
            opened = response.connection.transport.get_extra_info("socket")
            assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        assert session.connector is not None
        assert session.connector.limit == 7


async def test_a_connection_that_was_closed_meanwhile_is_replaced_once() -> None:
    calls = 0

    async def drop(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        assert request.transport is not None
        if calls in (1, 3, 4):
            request.transport.abort()
        return web.Response(text="late")

    async with serving(web.post("/", drop)) as url, open_session(UpstreamSettings()) as session:
        async with await send(session, "POST", url, {}, data=b"x") as response:
            assert await response.text() == "late"
        assert calls == 2
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await send(session, "POST", url, {}, data=b"x")
        assert calls == 4


async def test_every_call_of_a_request_carries_its_id_and_its_callers_trace(gateway: Any) -> None:
    headers = {"x-request-id": "abc-1", "traceparent": _PARENT, "tracestate": "vendor=1"}
    body = {"model": "winnow", "messages": [{"role": "user", "content": "I was charged twice"}]}
    answer = await gateway.post(headers=headers, json=body)
    assert answer.headers["x-request-id"] == "abc-1"
    assert len(gateway.policy.headers) == 8
    for call in gateway.policy.headers:
        assert {name: call[name] for name in headers} == headers


async def test_requests_at_once_do_not_share_a_trace(gateway: Any) -> None:
    answers = await asyncio.gather(gateway.ask("hello"), gateway.ask("hello"))
    calls = gateway.policy.headers
    assert {call["x-request-id"] for call in calls} == {answer.headers["x-request-id"] for answer in answers}
    assert len({call["traceparent"] for call in calls}) == 2
    assert not any("tracestate" in call for call in calls)


async def test_a_trace_that_is_none_is_replaced(gateway: Any) -> None:
    body = {"model": "winnow", "messages": [{"role": "user", "content": "hello"}]}
    await gateway.post(headers={"traceparent": "00-nonsense", "tracestate": "vendor=1"}, json=body)
    (call,) = gateway.policy.headers
    version, trace, parent, flags = call["traceparent"].split("-")
    assert (version, len(trace), len(parent), flags) == ("00", 32, 16, "00")
    assert "tracestate" not in call


async def test_a_probe_of_health_belongs_to_no_request(gateway: Any) -> None:
    await gateway.http.get(f"{gateway.url}/readyz")
    (call,) = gateway.policy.headers
    assert not {"x-request-id", "traceparent"} & call.keys()
