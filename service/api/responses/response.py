"""A chat's answer as the object of the Responses API. Pure."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from service.api.responses.request import ResponseRequest
from service.request.respond import MODEL
from service.request.work import Work

Item = dict[str, Any]
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response_object(work: Work, asked: ResponseRequest, chat: Mapping[str, Any]) -> dict[str, Any]:
    """The whole response of a whole answer."""
    choice = chat["choices"][0]
    items = output_items(choice["message"])
    return ended(unfinished(work, asked), items, choice["finish_reason"], chat["usage"], chat["rerank"])


def unfinished(work: Work, asked: ResponseRequest) -> dict[str, Any]:
    """A response that has begun: what was asked, as it is carried out."""
    text: dict[str, Any] = {"format": asked.text.format.model_dump(by_alias=True, exclude_none=True)}
    if asked.text.verbosity is not None:
        text["verbosity"] = asked.text.verbosity
    return {
        "id": work.id,
        "object": "response",
        "created_at": work.created,
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": None,
        "metadata": asked.metadata,
        "model": MODEL,
        "output": [],
        "parallel_tool_calls": asked.parallel_tool_calls is not False,
        "presence_penalty": work.request.presence_penalty or 0.0,
        "frequency_penalty": work.request.frequency_penalty or 0.0,
        "previous_response_id": None,
        "prompt_cache_key": work.request.prompt_cache_key,
        "reasoning": {"effort": asked.reasoning.effort, "summary": None},
        "safety_identifier": work.request.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": work.plan.temperature,
        "text": text,
        "tool_choice": asked.tool_choice or "auto",
        "tools": [_tool(tool.model_dump()) for tool in asked.tools],
        "top_logprobs": 0,
        "top_p": 1.0 if work.request.top_p is None else work.request.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": work.request.user,
    }


def ended(
    response: dict[str, Any], items: list[Item], finish_reason: str, usage: Mapping[str, Any], rerank: Any
) -> dict[str, Any]:
    """The response with its output, complete or cut off."""
    reason = _INCOMPLETE.get(finish_reason)
    if reason and items:
        # What was cut off is what came last.
        items = [*items[:-1], items[-1] | ({"status": "incomplete"} if "status" in items[-1] else {})]
    return response | {
        "status": "incomplete" if reason else "completed",
        "completed_at": None if reason else response["created_at"],
        "incomplete_details": {"reason": reason} if reason else None,
        "output": items,
        "usage": _usage(usage),
        "rerank": rerank,
    }


def output_items(message: Mapping[str, Any]) -> list[Item]:
    """What the assistant thought, said and called, each an item."""
    items: list[Item] = []
    if thought := message.get("reasoning") or message.get("reasoning_content"):
        items.append(reasoning_item(new_id("rs"), thought))
    if message.get("refusal"):
        items.append(message_item(new_id("msg"), [{"type": "refusal", "refusal": message["refusal"]}]))
    elif message.get("content") or not message.get("tool_calls"):
        items.append(message_item(new_id("msg"), [text_part(message.get("content") or "")]))
    for call in message.get("tool_calls") or []:
        function = call["function"]
        items.append(call_item(new_id("fc"), call["id"], function["name"], function["arguments"]))
    return items


def new_id(kind: str) -> str:
    """An id of an item."""
    return f"{kind}_{secrets.token_hex(12)}"


def text_part(text: str) -> dict[str, Any]:
    """A part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def message_item(number: str, content: list[dict[str, Any]], status: str = "completed") -> Item:
    """What was said."""
    return {"id": number, "type": "message", "status": status, "role": "assistant", "content": content}


def call_item(number: str, call_id: str | None, name: str, arguments: str, status: str = "completed") -> Item:
    """A function that is to be called."""
    called = {"call_id": call_id or number, "name": name, "arguments": arguments}
    return {"id": number, "type": "function_call", "status": status, **called}


def reasoning_item(number: str, text: str) -> Item:
    """What was thought before."""
    return {"id": number, "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    return tool | {"strict": bool(tool["strict"])}


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    reasoned = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": reasoned},
        "total_tokens": usage["total_tokens"],
    }
