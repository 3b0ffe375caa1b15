"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator

import orjson
from fastapi import APIRouter, Request, Response

from service.api.body import ClientLeft, read_body, while_connected
from service.api.events import DONE, EventStream, event
from service.api.state import AppState, identify, state_of
from service.errors import ApiError, NotFound
from service.request.respond import MODEL
from service.request.schemas import parse_chat_request
from service.request.work import Work

router = APIRouter()
_CLIENT_CLOSED_REQUEST = 499


@router.post("/v1/chat/completions")
async def create_chat_completion(request: Request) -> Response:
    """Answer a chat, reranked where its route says so."""
    state = state_of(request)
    identity = identify(request, state)
    limits = state.admission.admit(identity.tenant)
    chat = parse_chat_request(await read_body(request, state.settings.max_body_bytes))
    if chat.model != MODEL:
        raise NotFound(
            f"there is no model {chat.model!r} here; this gateway serves {MODEL!r} and chooses the policy by itself",
            param="model",
            code="model_not_found",
        )
    state.admission.check()
    work = await state.pipeline.prepare(chat, identity, f"chatcmpl-{secrets.token_hex(12)}")
    if chat.stream:
        headers = limits | {"x-winnow-route": work.plan.route}
        keepalive = state.settings.keepalive_seconds
        return EventStream(_events(state, work), keepalive_seconds=keepalive, headers=headers)
    try:
        answer = await while_connected(request, state.pipeline.answer(work))
    except ClientLeft:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)
    return Response(orjson.dumps(answer.body), media_type="application/json", headers=limits | answer.headers)


async def _events(state: AppState, work: Work) -> AsyncGenerator[bytes, None]:
    """Chunks as server-sent events, those together that come together; an error in mid-stream is an event too."""
    try:
        async for chunks in state.pipeline.stream(work):
            yield b"".join(event(chunk) for chunk in chunks)
    except ApiError as error:
        state.metrics.request.errors.labels(error.code or error.type).inc()
        yield event(orjson.dumps(error.body()))
        return
    yield DONE
