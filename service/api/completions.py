"""POST /v1/completions, OpenAI's legacy API: a prompt is one user turn of a chat."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from service.api.answers import EVENTS, TextCompletion
from service.api.http.direct import DirectRoute
from service.api.http.events import DONE, event
from service.api.http.exchange import Blocks, Exchange, chunks_of
from service.api.openapi import takes
from service.errors import InvalidRequest
from service.request.schemas import validate
from service.request.schemas.fields import NullsAbsent, Whole, refuse

router = APIRouter(route_class=DirectRoute)

_CHAT_ONLY = ("messages", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call")


def _one_prompt(prompt: Any) -> Any:
    if isinstance(prompt, list):
        if len(prompt) != 1 or not isinstance(prompt[0], str):
            refuse("must be one string; send each prompt in a request of its own, as text")
        return prompt[0]
    return prompt


def _unsupported(reason: str) -> AfterValidator:
    return AfterValidator(lambda value: refuse(f"is not supported: {reason}") if value else None)


class CompletionRequest(NullsAbsent):
    """OpenAI's legacy completion request: `prompt` beside the fields of a chat request that are not about turns."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"examples": [{"model": "winnow", "prompt": "Name three trees."}]}
    )

    model: str
    prompt: Annotated[str, BeforeValidator(_one_prompt, json_schema_input_type=str | list[str])] = Field(min_length=1)
    echo: Annotated[bool | None, _unsupported("the prompt is not sent back")] = None
    suffix: Annotated[str | None, _unsupported("text is continued at its end only")] = None
    best_of: Annotated[Whole | None, _unsupported('send {"rerank": {"mode": "best_of_n", "n": ...}}')] = None
    logprobs: Annotated[
        Whole | None, BeforeValidator(lambda value: refuse("is not supported: use /v1/chat/completions"))
    ] = None

    def to_chat(self) -> dict[str, Any]:
        """The same as a chat request."""
        if wrong := next((name for name in _CHAT_ONLY if name in (self.model_extra or {})), None):
            raise InvalidRequest(f"{wrong} is a parameter of /v1/chat/completions; send it there", param=wrong)
        return {"model": self.model, "messages": [{"role": "user", "content": self.prompt}], **(self.model_extra or {})}


@router.post("/v1/completions", responses={200: {"model": TextCompletion, "content": EVENTS}})
@takes(CompletionRequest)
async def create_completion(request: Request) -> Response:
    """Continue a prompt. For clients that know no chat; a token limit that is not given is the route's."""
    exchange = await Exchange.begin(request)
    asked = validate(await exchange.body(), CompletionRequest)
    work = await exchange.prepare(asked.to_chat(), f"cmpl-{secrets.token_hex(12)}")
    if work.request.stream:
        return await exchange.stream(work, lambda blocks: _events(exchange, blocks))
    return await exchange.whole(work, lambda answer: _body(answer.body, "message"))


async def _events(exchange: Exchange, blocks: Blocks) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in chunks_of(blocks):
            body = _body(chunk, "delta")
            if any(choice["text"] or choice["finish_reason"] for choice in body["choices"]) or not body["choices"]:
                yield event(orjson.dumps(body))
    except Exception as error:
        yield event(orjson.dumps(exchange.failed(error).body()))
        return
    finally:
        await blocks.aclose()
    yield DONE


def _body(chat: Mapping[str, Any], holder: str) -> dict[str, Any]:
    """A chat's answer or chunk as a completion's; `said` is where its choices hold their text."""
    choices = [
        {
            "text": choice[holder].get("content") or choice[holder].get("refusal") or "",
            "index": choice["index"],
            "logprobs": None,
            "finish_reason": choice["finish_reason"],
        }
        for choice in chat["choices"]
    ]
    return {**chat, "object": "text_completion", "choices": choices}
