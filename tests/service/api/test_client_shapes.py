"""Request shapes that clients send unasked get the answer of the plain request, on both routes, streamed or not."""

from __future__ import annotations

import json
from typing import Any

import pytest

BILL, PLAIN = "I was charged twice for my subscription. What should I do?", "Name three trees."
SET_BY_CLIENTS = """n stream stream_options temperature top_p max_completion_tokens seed stop tools tool_choice
    parallel_tool_calls functions function_call response_format logprobs top_logprobs logit_bias user metadata store"""
NULLS = dict.fromkeys(SET_BY_CLIENTS.split())
CALL = {"id": "c1", "type": "function", "function": {"name": "find_charge", "arguments": '{"month": "May"}'}}


def texts(body: str) -> str:
    """What a streamed answer says."""
    payloads = [line[5:].strip() for line in body.splitlines() if line.startswith("data:")]
    assert payloads[-1] == "[DONE]"
    chunks = [json.loads(payload) for payload in payloads[:-1]]
    assert not [chunk for chunk in chunks if "error" in chunk]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize("text", [BILL, PLAIN])
@pytest.mark.parametrize(
    "fields",
    [
        NULLS,
        {"tools": []},
        {"tools": [], "tool_choice": "auto"},
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": True},
        {"tool_choice": "auto"},
        {"rerank": {"mode": None, "n": None, "budget_ms": None, "locale": None}},
        {"rerank": None},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_empty_fields_are_as_if_they_were_missing(
    demo: Any, text: str, fields: dict[str, Any], stream: bool
) -> None:
    response = await demo.ask(text, **fields | ({"stream": True} if stream else {}))
    assert response.status_code == 200
    answer = texts(response.text) if stream else response.json()["choices"][0]["message"]["content"]
    assert answer.startswith("reply")
    added = {"n", "stream", "stream_options", "seed", "cache_salt", "max_tokens", "temperature", "model", "messages"}
    assert len(demo.policy.bodies) == (8 if text == BILL else 1)
    assert all(set(body) <= added for body in demo.policy.bodies), "nothing empty reaches the policy"


@pytest.mark.parametrize("text", [BILL, PLAIN])
async def test_marks_for_prompt_caching_leave_the_prompt_alone(demo: Any, text: str) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    asked = []
    for extra in ({}, mark):
        part = {"type": "text", "text": "Be brief.", **extra}
        messages = [{"role": "system", "content": [part], **extra}, {"role": "user", "content": text}]
        response = await demo.post(json={"model": "winnow", "messages": messages})
        assert response.status_code == 200
        asked.append(demo.policy.bodies[-1]["messages"])
    assert asked[0] == asked[1] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


@pytest.mark.parametrize("text", [BILL, PLAIN])
@pytest.mark.parametrize("content", [None, "", []])
@pytest.mark.parametrize("arguments", ['{"month": "May"}', '{"month": "Ma', "", {"month": "May"}])
async def test_an_odd_turn_of_calls_does_not_end_a_conversation(
    demo: Any, text: str, content: Any, arguments: Any
) -> None:
    call = CALL | {"function": {"name": "find_charge", "arguments": arguments}}
    messages = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "two charges found"},
        {"role": "user", "content": "So what now?"},
    ]
    response = await demo.post(json={"model": "winnow", "messages": messages})
    assert response.status_code == 200
    for body in demo.policy.bodies:
        turn = body["messages"][1]
        assert turn["content"] == ""
        assert isinstance(json.loads(turn["tool_calls"][0]["function"]["arguments"]), dict)
