"""Connections to upstreams: one pool, with keep-alive, no proxies of the environment, no cookies."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import aiohttp
from yarl import URL

from service.settings import UpstreamSettings
from service.telemetry.tracing import outgoing_headers

# Silence after which the kernel asks whether the other side is still there, how often, and how many times in vain.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
_IDLE_SECONDS = 30.0


def open_session(settings: UpstreamSettings) -> aiohttp.ClientSession:
    """A session for policies and the scorer; close it with the app."""
    connector = aiohttp.TCPConnector(
        limit=settings.connections, keepalive_timeout=_IDLE_SECONDS, socket_factory=_socket
    )
    # A cookie that one tenant's answer sets must not go out with another's request.
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)


async def send(
    session: aiohttp.ClientSession, method: str, url: str | URL, headers: Mapping[str, str], **options: Any
) -> aiohttp.ClientResponse:
    """The response to a call, which carries the id and the trace of the request that makes it.

    A kept connection that the server closed meanwhile is replaced once.
    """
    options |= {"headers": {**headers, **outgoing_headers()}, "allow_redirects": False}
    try:
        return await session.request(method, url, **options)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        return await session.request(method, url, **options)


def _socket(address: Any) -> socket.socket:
    family, kind, protocol, *_ = address
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return opened
