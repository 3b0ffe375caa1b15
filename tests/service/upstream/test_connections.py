"""The pool of connections: keep-alive, nothing from the environment, nothing from one request to the next."""

from __future__ import annotations

import socket

import aiohttp
import pytest
from aiohttp import web

from service.settings import UpstreamSettings
from service.upstream.connections import open_session, send
from tests.service.upstream.servers import serving


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
            async with await send(session, "GET", url.replace("127.0.0.1", "localhost")) as response:
                assert response.status == 302
    assert cookies == [None, None]


async def test_sockets_are_kept_alive_and_limited() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=bytes(2**22))

    async with serving(web.get("/", answer)) as url, open_session(UpstreamSettings(connections=7)) as session:
        async with await send(session, "GET", url) as response:
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
        async with await send(session, "POST", url, data=b"x") as response:
            assert await response.text() == "late"
        assert calls == 2
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await send(session, "POST", url, data=b"x")
        assert calls == 4
