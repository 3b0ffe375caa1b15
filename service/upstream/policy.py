"""Client of the policy, any OpenAI-compatible server: streaming requests with n=1, each cancelled by itself."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Protocol, TypeVar

import aiohttp
import orjson
from yarl import URL

from service.errors import InvalidRequest, PolicyOverloaded, PolicyUnavailable
from service.settings import PolicySettings
from service.upstream.chunks import ChunkReader, is_plain, parse
from service.upstream.connections import send
from service.upstream.dialects import spoken
from service.upstream.events import DONE, EventDecoder
from service.upstream.guard import Guard
from service.upstream.refusals import refusal

__all__ = ["HttpPolicy", "Policy", "parse"]

# How long an answer may take is the request's deadline's matter.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5.0)
_READ_BYTES = 2**20
_LARGEST_ERROR = 2**16
_USAGE = {"include_usage": True}
_PROBE = {"messages": [{"role": "user", "content": "ping"}], "max_tokens": 1, "temperature": 0.0}

Payload = TypeVar("Payload")


class Policy(Protocol):
    """The seam to what samples. `body` is OpenAI's chat request without model and streaming fields."""

    def sample(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The normal chunks (chunks.py) of one streamed completion, each with usage up to it; closing the iterator
        cancels it at the policy."""

    def relay(self, body: dict[str, Any]) -> AsyncGenerator[list[bytes], None]:
        """The same as bytes, those together that came together; usage is in the last. Nothing is yielded before the
        policy has accepted the request: its refusal is raised first."""

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """A whole completion in one chunk."""

    async def healthy(self) -> bool:
        """Whether its engine answers within the time for a probe."""


class HttpPolicy:
    """A policy behind HTTP."""

    def __init__(self, endpoint: PolicySettings, session: aiohttp.ClientSession, guard: Guard | None = None) -> None:
        self._endpoint = endpoint
        self._session = session
        self._guard = guard or Guard("policy", PolicyUnavailable)
        self._url = URL(f"{endpoint.url}/v1/chat/completions")
        self._headers = {"Content-Type": "application/json", **endpoint.headers}
        if endpoint.api_key:
            self._headers["Authorization"] = f"Bearer {endpoint.api_key}"

    async def sample(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Usage comes with each chunk, so that a cancelled stream is counted too: the policy's where it tells it, else
        a token for each chunk with text."""
        request = self._request(body | {"stream_options": _USAGE | {"continuous_usage_stats": True}}, stream=True)
        reader, counted = ChunkReader(request), 0
        async with aclosing(self._blocks(request, reader, reader.read)) as blocks:
            async for chunks in blocks:
                for chunk in chunks:
                    if chunk.get("usage") is None:
                        counted += _has_text(chunk)
                        chunk["usage"] = {"prompt_tokens": 0, "completion_tokens": counted, "estimated": True}
                    yield chunk

    async def relay(self, body: dict[str, Any]) -> AsyncGenerator[list[bytes], None]:
        """Plain chunks as they came, the others as normal ones."""
        request = self._request({"stream_options": _USAGE} | body, stream=True)
        reader = ChunkReader(request)

        def normal(payload: bytes) -> bytes:
            return payload if is_plain(payload) else orjson.dumps(reader.read(payload))

        async with aclosing(self._blocks(request, reader, normal)) as blocks:
            async for block in blocks:
                yield block

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Asked without streaming: one body instead of an event a token."""
        return await self._whole(body)

    async def healthy(self) -> bool:
        """Whether it completes one token: a list of models comes from a frozen engine, too."""
        try:
            async with asyncio.timeout(self._guard.settings.probe_seconds):
                await self._whole(dict(_PROBE), stall_seconds=0.0)
        except InvalidRequest:
            return True
        except (PolicyUnavailable, TimeoutError) as error:
            return isinstance(error, PolicyOverloaded)
        return True

    async def _whole(self, body: dict[str, Any], stall_seconds: float | None = None) -> dict[str, Any]:
        request = self._request(body)
        async with self._guard.call(stall_seconds):
            with _reaching():
                async with await self._answer(request) as response:
                    return ChunkReader(request).whole(await response.read())

    def _request(self, body: dict[str, Any], *, stream: bool = False) -> dict[str, Any]:
        asked = body | {"model": self._endpoint.model, "n": 1} | ({"stream": True} if stream else {})
        return spoken(asked, self._endpoint.dialect)

    async def _blocks(
        self, request: dict[str, Any], reader: ChunkReader, read: Callable[[bytes], Payload]
    ) -> AsyncGenerator[list[Payload], None]:
        """Payloads of a stream, each as `read` makes it, by the block in which the network delivered them."""
        async with self._guard.call() as call:
            with _reaching():
                async with await self._answer(request) as response:
                    call.heard()
                    if response.content_type == "application/json":
                        # A server that does not stream.
                        yield [read(orjson.dumps(reader.whole(await response.read())))]
                        return
                    if response.content_type == "text/html":
                        raise PolicyUnavailable(
                            "the policy answered with a web page; the gateway's operator has to check its url",
                            kind="malformed",
                        )
                    async for payloads in _payloads(response):
                        call.heard()
                        yield [read(payload) for payload in payloads]

    async def _answer(self, request: dict[str, Any]) -> aiohttp.ClientResponse:
        """A response with status 200, to be closed by its reader."""
        response = await send(
            self._session,
            "POST",
            self._url,
            headers=self._headers,
            data=orjson.dumps(request),
            timeout=_TIMEOUT,
            read_bufsize=_READ_BYTES,
        )
        if response.status != 200:
            async with response:
                body = await response.content.read(_LARGEST_ERROR)
            raise refusal(response.status, body, request, response.headers.get("retry-after"))
        return response


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise PolicyUnavailable("the policy cannot be reached", kind="unreachable") from error
    except TimeoutError as error:
        raise PolicyUnavailable("the policy did not answer in time", kind="timeout") from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise PolicyUnavailable("the policy broke off", kind="broke_off") from error


async def _payloads(response: aiohttp.ClientResponse) -> AsyncIterator[list[bytes]]:
    """Until [DONE], or the end of the connection after a chunk with a reason to finish."""
    decoder, last = EventDecoder(), deque[bytes](maxlen=4)
    try:
        async for block in response.content.iter_any():
            payloads = decoder.feed(block)
            if DONE in payloads:
                if before := payloads[: payloads.index(DONE)]:
                    yield before
                return
            if payloads:
                last.extend(payloads)
                yield payloads
        payloads = decoder.end()
        if before := [payload for payload in payloads if payload != DONE]:
            yield before
        if DONE in payloads:
            return
        last.extend(before)
    except aiohttp.ClientPayloadError:
        if not _finished(last):
            raise
    if not _finished(last):
        raise PolicyUnavailable("the policy ended its stream before the completion was done", kind="broke_off")


def _finished(payloads: deque[bytes]) -> bool:
    reader = ChunkReader({})
    for payload in payloads:
        reader.read(payload)
    return reader.finished


def _has_text(chunk: dict[str, Any]) -> bool:
    for choice in chunk["choices"]:
        delta = choice["delta"]
        if delta.get("content") or delta.get("reasoning") or delta.get("tool_calls"):
            return True
    return False
