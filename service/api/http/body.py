"""Reads a request's body up to a limit, and watches whether the client is still connected."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from service.errors import BodyTooLarge, WrongMediaType

T = TypeVar("T")
_JSON = "application/json"


class ClientLeft(Exception):
    """The client closed the connection."""


async def read_body(request: Request, limit: int) -> bytes:
    """The body; BodyTooLarge as soon as more than `limit` bytes are announced or have come."""
    _check_headers(request)
    message = f"the body is larger than {limit} bytes"
    if int(request.headers.get("content-length") or 0) > limit:
        raise BodyTooLarge(message)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise BodyTooLarge(message)
    return bytes(body)


def _check_headers(request: Request) -> None:
    """WrongMediaType for what is no JSON as it stands; a client that names no type sends JSON."""
    kind = request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
    if kind != _JSON and not kind.endswith("+json"):
        raise WrongMediaType(f"the Content-Type is {kind[:100]!r}; send {_JSON}")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise WrongMediaType(f"the Content-Encoding is {encoding[:100]!r}; send the body as it is, uncompressed")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`, but cancel it and raise ClientLeft when the client goes away."""
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        for unfinished in (task, left):
            unfinished.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
