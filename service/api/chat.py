"""POST /v1/chat/completions."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator

import orjson
from fastapi import APIRouter, Request, Response

from service.api.answers import EVENTS, ChatCompletion
from service.api.http.direct import DirectRoute
from service.api.http.events import DONE, event
from service.api.http.exchange import Blocks, Exchange
from service.api.openapi import takes
from service.request.schemas import ChatRequest

router = APIRouter(route_class=DirectRoute)


@router.post("/v1/chat/completions", responses={200: {"model": ChatCompletion, "content": EVENTS}})
@takes(ChatRequest)
async def create_chat_completion(request: Request) -> Response:
    """Answer a chat, reranked where its route says so."""
    exchange = await Exchange.begin(request)
    work = await exchange.prepare(await exchange.body(), f"chatcmpl-{os.urandom(12).hex()}")
    if work.request.stream:
        return await exchange.stream(work, lambda blocks: _events(exchange, blocks))
    return await exchange.whole(work, lambda answer: answer.body)


async def _events(exchange: Exchange, blocks: Blocks) -> AsyncGenerator[bytes, None]:
    """Chunks as they are, those together that come together; an error in mid-stream is an event too, the last one."""
    try:
        async for chunks in blocks:
            yield b"".join(event(chunk) for chunk in chunks)
    except Exception as error:
        yield event(orjson.dumps(exchange.failed(error).body()))
        return
    finally:
        await blocks.aclose()
    yield DONE
