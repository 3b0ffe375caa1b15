"""Reads a request's body up to a limit, and watches whether the client is still connected."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.errors import BodyTooLarge, WrongMediaType

T = TypeVar("T")
_JSON = "application/json"
_UNWATCHED_SECONDS = 0.02


class ClientLeft(Exception):
    """The client closed the connection."""


async def read_body(request: Request, limit: int) -> bytes:
    """The body; BodyTooLarge as soon as more than `limit` bytes are announced or have come."""
    _check_headers(request)
    message = f"the body is larger than {limit} bytes"
    if int(request.headers.get("content-length") or 0) > limit:
        raise BodyTooLarge(message)
    body, more = bytearray(), True
    while more:
        part = await request.receive()
        if part["type"] == "http.disconnect":
            raise ClientDisconnect
        body += part.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge(message)
        more = part.get("more_body", False)
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
    """Run `work`, but cancel it and raise ClientLeft when the client goes away.

    It runs in the request's own task, and nobody watches the client before `_UNWATCHED_SECONDS` have passed: two tasks
    fewer for what is answered sooner.
    """
    watch = _Watch(request)
    watching = asyncio.get_running_loop().call_later(_UNWATCHED_SECONDS, watch.begin)
    try:
        return await work
    except asyncio.CancelledError:
        if watch.left and watch.owner.uncancel() == 0:
            raise ClientLeft from None
        raise
    finally:
        watching.cancel()
        await watch.end()


class _Watch:
    """Cancels the task that made it when the request's client leaves."""

    def __init__(self, request: Request) -> None:
        owner = asyncio.current_task()
        assert owner is not None
        self.owner = owner
        self.left = False
        self._request = request
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Look at the client from now on."""
        self._task = asyncio.create_task(self._cancel_owner())

    async def end(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _cancel_owner(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self.left = True
        self.owner.cancel()
