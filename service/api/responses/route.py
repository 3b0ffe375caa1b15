"""The path of the Responses API."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request, Response

from service.api.answers import EVENTS, ResponseBody
from service.api.http.direct import DirectRoute
from service.api.http.exchange import Blocks, Exchange, chunks_of
from service.api.openapi import takes
from service.api.responses.events import ResponseEvents
from service.api.responses.request import ResponseRequest
from service.api.responses.response import response_object, unfinished
from service.errors import InvalidRequest
from service.request.schemas import validate

router = APIRouter(route_class=DirectRoute)


@router.post("/v1/responses", responses={200: {"model": ResponseBody, "content": EVENTS}})
@takes(ResponseRequest)
async def create_response(request: Request) -> Response:
    """Answer a conversation of items. Nothing is kept for later requests: send the whole conversation each time."""
    exchange = await Exchange.begin(request)
    asked = validate(await exchange.body(), ResponseRequest)
    chat, turns = asked.to_chat()
    try:
        work = await exchange.prepare(chat, f"resp_{secrets.token_hex(12)}")
    except InvalidRequest as error:
        raise turns.renamed(error) from error
    if asked.stream:
        events = ResponseEvents(unfinished(work, asked))
        return await exchange.stream(work, lambda blocks: _events(exchange, events, blocks))
    return await exchange.whole(work, lambda answer: response_object(work, asked, answer.body))


async def _events(exchange: Exchange, events: ResponseEvents, blocks: Blocks) -> AsyncGenerator[bytes, None]:
    yield events.begin()
    try:
        async for chunk in chunks_of(blocks):
            if frames := events.feed(chunk):
                yield frames
    except Exception as error:
        yield events.fail(exchange.failed(error))
        return
    finally:
        await blocks.aclose()
    yield events.end()
