"""One request for a completion, in whichever of OpenAI's APIs it came: from its key to its response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from service.admission.permit import Permit
from service.api.http.body import ClientLeft, read_body, while_connected
from service.api.http.events import EventStream
from service.api.http.failures import as_api_error
from service.api.http.state import AppState, admit, identify, state_of
from service.errors import ApiError, NotFound
from service.identity import Identity
from service.request.respond import MODEL, Answer
from service.request.schemas import ParameterRules, read_object, to_chat_request
from service.request.work import Work
from service.telemetry.summary import note

_CLIENT_CLOSED_REQUEST = 499
# A best-of-N stream starts no later, so that its client hears something; what fails earlier has a status of its own.
_GRACE_SECONDS = 1.0

Blocks = AsyncGenerator[list[bytes], None]


@dataclass(frozen=True)
class Exchange:
    """A request that was let in. `headers` go out with its response and may be added to until it starts."""

    request: Request
    state: AppState
    identity: Identity
    headers: dict[str, str]

    @classmethod
    async def begin(cls, request: Request) -> Exchange:
        """Identify the client and count its request."""
        state = state_of(request)
        identity = identify(request, state)
        return cls(request, state, identity, await admit(request, state, identity))

    async def body(self) -> dict[str, Any]:
        """The JSON object that was sent."""
        return read_object(await read_body(self.request, self.state.settings.max_body_bytes))

    async def prepare(self, chat: Mapping[str, Any], response_id: str) -> Work:
        """Check, route and plan a chat request."""
        settings = self.state.settings
        rules = ParameterRules(frozenset(settings.passed_parameters), settings.unknown_parameters)
        request, ignored = to_chat_request(chat, rules)
        if ignored:
            self.headers["x-winnow-ignored"] = _header_list(ignored)
        if request.model != MODEL:
            raise NotFound(
                f"there is no model {request.model!r} here; this gateway serves {MODEL!r} and chooses the policy "
                "by itself",
                param="model",
                code="model_not_found",
            )
        self.state.admission.check()
        work = await self.state.pipeline.prepare(request, self.identity, response_id)
        self.headers.update(work.permit.headers)
        return work

    async def whole(self, work: Work, shape: Callable[[Answer], Mapping[str, Any]]) -> Response:
        """The answer at once, in the shape of the API that was called."""
        try:
            with work.permit:
                answer = await while_connected(self.request, self.state.pipeline.answer(work))
        except ClientLeft:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        return Response(orjson.dumps(shape(answer)), media_type="application/json", headers=answer.headers)

    async def stream(self, work: Work, events: Callable[[Blocks], AsyncGenerator[bytes, None]]) -> Response:
        """The answer as server-sent events, which `events` makes of the pipeline's chunks.

        Nothing is sent before the first chunk of a greedy answer, or for a moment of a best-of-N one, is there: an
        error until then is raised and answered with its status.
        """
        keepalive = self.state.settings.keepalive_seconds
        patience = None if work.plan.strategy == "greedy" else min(_GRACE_SECONDS, keepalive)
        blocks = self.state.pipeline.stream(work)
        try:
            first = await while_connected(self.request, _first(blocks, patience))
        except ClientLeft:
            work.permit.release()
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        except BaseException:
            work.permit.release()
            raise
        return _PermittedStream(
            events(_continued(first, blocks)),
            permit=work.permit,
            keepalive_seconds=keepalive,
            headers={"x-winnow-route": work.plan.route},
        )

    def failed(self, error: Exception) -> ApiError:
        """An error in mid-stream, noted, as the client may see it."""
        shown = as_api_error(error)
        note(code=shown.code or shown.type, status=shown.status)
        return shown


async def _first(blocks: Blocks, patience: float | None) -> asyncio.Task[list[bytes] | None]:
    """The first block, done or still to come after `patience` seconds; its error is raised."""
    first = asyncio.ensure_future(anext(blocks, None))
    try:
        await asyncio.wait({first}, timeout=patience)
        if first.done():
            first.result()
    except BaseException:
        await _abandon(first, blocks)
        raise
    return first


async def _continued(first: asyncio.Task[list[bytes] | None], blocks: Blocks) -> Blocks:
    """The blocks from the first on."""
    try:
        if (block := await first) is not None:
            yield block
        async for block in blocks:
            yield block
    finally:
        await _abandon(first, blocks)


async def _abandon(first: asyncio.Task[list[bytes] | None], blocks: Blocks) -> None:
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await blocks.aclose()


class _PermittedStream(EventStream):
    """Gives the permit back even if the client leaves before the first chunk, when no generator ever started."""

    def __init__(self, events: AsyncGenerator[bytes, None], *, permit: Permit, **options: Any) -> None:
        super().__init__(events, **options)
        self._permit = permit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, holding the permit."""
        with self._permit:
            await super().__call__(scope, receive, send)


async def chunks_of(blocks: Blocks) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a stream, each as an object."""
    async with aclosing(blocks):
        async for block in blocks:
            for payload in block:
                yield orjson.loads(payload)


def _header_list(names: Iterable[str]) -> str:
    """Names that a client chose, as a header may hold them."""
    return ",".join(quote(name[:100], safe="") for name in names)
