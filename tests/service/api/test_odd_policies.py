"""Policies that send odd streams, seen by clients of both routes, streamed and not."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

TOOLS = [{"type": "function", "function": {"name": "find_charge", "parameters": {"type": "object"}}}]
USAGE = {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
BOTH_ROUTES = pytest.mark.parametrize("text", ["I was charged twice", "hello"])
STREAMED_OR_NOT = pytest.mark.parametrize("stream", [True, False])
Answer = Callable[[dict[str, Any], int], Response]


def policy(deltas: list[dict[str, Any]], message: dict[str, Any], reason: str) -> Answer:
    """Streams the deltas, or answers with the message."""

    def answer(body: dict[str, Any], number: int) -> Response:
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": reason}
            return JSONResponse({"choices": [choice], "usage": USAGE})
        chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
        chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}, {"choices": [], "usage": USAGE}]
        head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        text = "".join(f"data: {json.dumps(head | chunk)}\n\n" for chunk in chunks)
        return Response(f"{text}data: [DONE]\n\n", media_type="text/event-stream")

    return answer


async def message_of(gateway: Any, text: str, stream: bool, **fields: Any) -> dict[str, Any]:
    """The message, put together as openai-python's helpers do: tool calls by their index."""
    response = await gateway.ask(text, stream=stream, **fields)
    assert response.status_code == 200, response.text
    if not stream:
        message: dict[str, Any] = response.json()["choices"][0]["message"]
        return message
    whole: dict[str, Any] = {}
    calls: dict[int, dict[str, str]] = {}
    for line in response.text.splitlines():
        if not line.startswith("data: {"):
            continue
        for choice in json.loads(line[6:])["choices"]:
            for name in ("content", "reasoning", "reasoning_content"):
                whole[name] = whole.get(name, "") + (choice["delta"].get(name) or "")
            for part in choice["delta"].get("tool_calls") or []:
                call = calls.setdefault(part["index"], {"name": "", "arguments": "", "id": ""})
                call["id"] += part.get("id") or ""
                for name in ("name", "arguments"):
                    call[name] += part["function"].get(name) or ""
    tool_calls = [{"id": call.pop("id"), "function": call} for _, call in sorted(calls.items())]
    return whole | ({"tool_calls": tool_calls} if tool_calls else {})


@BOTH_ROUTES
@STREAMED_OR_NOT
@pytest.mark.parametrize("where", [{"index": None}, {}])
async def test_a_tool_call_without_an_index_is_one_call(
    demo: Any, text: str, stream: bool, where: dict[str, Any]
) -> None:
    first = {"id": "call_a", "type": "function", "function": {"name": "find_charge", "arguments": ""}}
    parts = [{"function": {"arguments": piece}} for piece in ('{"month"', ': "May"}')]
    deltas = [{"role": "assistant", "content": None, "tool_calls": [where | first]}]
    deltas += [{"tool_calls": [where | part]} for part in parts]
    whole = first | {"function": {"name": "find_charge", "arguments": '{"month": "May"}'}}
    demo.policy.answer = policy(deltas, {"content": None, "tool_calls": [whole]}, "tool_calls")
    message = await message_of(demo, text, stream, tools=TOOLS)
    [call] = message["tool_calls"]
    assert (call["id"], call["function"]) == ("call_a", {"name": "find_charge", "arguments": '{"month": "May"}'})


@BOTH_ROUTES
@STREAMED_OR_NOT
async def test_arguments_as_an_object_arrive_as_text(demo: Any, text: str, stream: bool) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "find_charge", "arguments": {"month": "May"}}}
    demo.policy.answer = policy([{"tool_calls": [call | {"index": 0}]}], {"tool_calls": [call]}, "tool_calls")
    message = await message_of(demo, text, stream, tools=TOOLS)
    assert message["tool_calls"][0]["function"]["arguments"] == '{"month":"May"}'


@BOTH_ROUTES
@STREAMED_OR_NOT
@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_arrives_under_both_names(demo: Any, text: str, stream: bool, name: str) -> None:
    deltas: list[dict[str, Any]] = [{"content": None, name: "First, "}, {name: "look."}, {"content": "Done."}]
    demo.policy.answer = policy(deltas, {"content": "Done.", name: "First, look."}, "stop")
    message = await message_of(demo, text, stream)
    assert message["content"] == "Done."
    assert message["reasoning"] == message["reasoning_content"] == "First, look."


@BOTH_ROUTES
@STREAMED_OR_NOT
@pytest.mark.parametrize(
    ("status", "shown", "code"),
    [
        (400, 400, "rejected_by_policy"),
        (404, 502, "policy_model_not_found"),
        (401, 502, "policy_unauthorized"),
        (429, 503, "policy_overloaded"),
        (500, 502, "policy_unavailable"),
    ],
)
async def test_a_refusal_has_its_status_before_a_stream_begins(
    demo: Any, text: str, stream: bool, status: int, shown: int, code: str
) -> None:
    error = {"error": {"message": "CUDA OOM at 10.0.0.5"}}
    demo.policy.answer = lambda body, i: JSONResponse(error, status, {"retry-after": "1.2"})
    response = await demo.ask(text, stream=stream)
    assert (response.status_code, response.json()["error"]["code"]) == (shown, code)
    assert "10.0.0.5" not in response.text
    assert response.headers.get("retry-after") == ("2" if status in (429, 500) else None)
