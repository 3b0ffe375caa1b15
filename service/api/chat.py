"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Iterable
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Request, Response
from starlette.types import Receive, Scope, Send

from service.admission.permit import Permit
from service.api.body import ClientLeft, read_body, while_connected
from service.api.events import DONE, EventStream, event
from service.api.state import AppState, admit, identify, state_of
from service.errors import ApiError, NotFound
from service.request.respond import MODEL
from service.request.schemas import ParameterRules, parse_chat_request
from service.request.work import Work
from service.summary import note

router = APIRouter()
_CLIENT_CLOSED_REQUEST = 499


@router.post("/v1/chat/completions")
async def create_chat_completion(request: Request) -> Response:
    """Answer a chat, reranked where its route says so."""
    state = state_of(request)
    identity = identify(request, state)
    limits = await admit(request, state, identity)
    rules = ParameterRules(frozenset(state.settings.passed_parameters), state.settings.unknown_parameters)
    chat, ignored = parse_chat_request(await read_body(request, state.settings.max_body_bytes), rules)
    if ignored:
        limits["x-winnow-ignored"] = header_list(ignored)
    if chat.model != MODEL:
        raise NotFound(
            f"there is no model {chat.model!r} here; this gateway serves {MODEL!r} and chooses the policy by itself",
            param="model",
            code="model_not_found",
        )
    state.admission.check()
    work = await state.pipeline.prepare(chat, identity, f"chatcmpl-{secrets.token_hex(12)}")
    limits |= work.permit.headers
    if chat.stream:
        return _PermittedStream(
            _events(state, work),
            permit=work.permit,
            keepalive_seconds=state.settings.keepalive_seconds,
            headers={"x-winnow-route": work.plan.route},
        )
    try:
        with work.permit:
            answer = await while_connected(request, state.pipeline.answer(work))
    except ClientLeft:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)
    return Response(orjson.dumps(answer.body), media_type="application/json", headers=answer.headers)


def header_list(names: Iterable[str]) -> str:
    """Names that a client chose, as a header may hold them."""
    return ",".join(quote(name[:100], safe="") for name in names)


class _PermittedStream(EventStream):
    """Gives the permit back even if the client leaves before the first chunk, when no generator ever started."""

    def __init__(self, events: AsyncGenerator[bytes, None], *, permit: Permit, **options: Any) -> None:
        super().__init__(events, **options)
        self._permit = permit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, holding the permit."""
        with self._permit:
            await super().__call__(scope, receive, send)


async def _events(state: AppState, work: Work) -> AsyncGenerator[bytes, None]:
    """Chunks as server-sent events, those together that come together; an error in mid-stream is an event too."""
    try:
        async for chunks in state.pipeline.stream(work):
            yield b"".join(event(chunk) for chunk in chunks)
    except ApiError as error:
        note(code=error.code or error.type, status=error.status)
        yield event(orjson.dumps(error.body()))
        return
    yield DONE
