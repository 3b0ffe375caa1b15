"""The Responses API, by openai-python's client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

BILL, PLAIN = "I was charged twice", "Name three trees."
TOOL = {"type": "function", "name": "find_charge", "parameters": {"type": "object"}, "strict": None}
CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "find_charge", "arguments": '{"m": 1}'}}


async def test_text_in_and_text_out(gateway: Any) -> None:
    response = await gateway.openai.responses.create(
        model="winnow",
        input=PLAIN,
        instructions="Be brief.",
        max_output_tokens=9,
        temperature=0.5,
        metadata={"case": "7"},
        user="u1",
    )
    assert (response.object, response.status, response.id[:5]) == ("response", "completed", "resp_")
    assert response.output_text == "reply 0"
    assert (response.instructions, response.max_output_tokens, response.metadata) == ("Be brief.", 9, {"case": "7"})
    assert (response.temperature, response.store, response.error, response.user) == (0.5, False, None, "u1")
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (7, 1, 8)
    [body] = gateway.policy.bodies
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PLAIN}]
    assert (body["max_tokens"], body["temperature"]) == (9, 0.5)
    assert response.model_extra["rerank"]["route"] == "default"


async def test_it_is_reranked(gateway: Any) -> None:
    response = await gateway.openai.responses.create(
        model="winnow", input=BILL, extra_body={"rerank": {"return_candidates": True}}
    )
    rerank = response.model_extra["rerank"]
    assert (rerank["decision"], rerank["n_scored"], len(rerank["candidates"])) == ("accept", 8, 8)


async def test_a_conversation_of_items_becomes_turns(gateway: Any) -> None:
    await gateway.openai.responses.create(
        model="winnow",
        input=[
            {"role": "developer", "content": "Be kind."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Which charge?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {
                "type": "message",
                "id": "msg_1",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}],
            },
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "find_charge", "arguments": '{"m": 1}'},
            {"type": "function_call", "call_id": "c2", "name": "find_charge", "arguments": ""},
            {"type": "function_call_output", "call_id": "c1", "output": "two charges"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "none"}]},
        ],
        tools=[TOOL],
    )
    [body] = gateway.policy.bodies
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "find_charge", "arguments": '{"m": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "find_charge", "arguments": "{}"}},
    ]
    assert body["messages"][1:] == [
        {"role": "user", "content": "Which charge?"},
        {"role": "assistant", "content": "Let me look.", "tool_calls": calls},
        {"role": "tool", "content": "two charges", "tool_call_id": "c1"},
        {"role": "tool", "content": "none", "tool_call_id": "c2"},
    ]
    assert body["tools"] == [
        {"type": "function", "function": {"name": "find_charge", "parameters": {"type": "object"}}}
    ]


async def test_calls_come_back_as_items(gateway: Any, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script([], tool_calls=[CALL], finish_reason="tool_calls")
    response = await gateway.openai.responses.create(model="winnow", input=BILL, tools=[TOOL])
    [item] = response.output
    assert (item.type, item.call_id, item.name) == ("function_call", "call_1", "find_charge")
    assert json.loads(item.arguments) == {"m": 1}
    assert response.tools[0].name == "find_charge"


async def test_what_was_cut_off_is_incomplete(gateway: Any, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script(["half"], finish_reason="length")
    response = await gateway.openai.responses.create(model="winnow", input=PLAIN)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    async with gateway.openai.responses.stream(model="winnow", input=PLAIN) as stream:
        types = [event.type async for event in stream]
    assert types[-1] == "response.incomplete"


async def test_a_schema_reaches_the_policy(gateway: Any) -> None:
    text = {"format": {"type": "json_schema", "name": "tree", "schema": {"type": "object"}, "strict": True}}
    response = await gateway.openai.responses.create(model="winnow", input=PLAIN, text=text)
    assert response.text.format.name == "tree"
    schema = {"name": "tree", "schema": {"type": "object"}, "strict": True}
    assert gateway.policy.bodies[0]["response_format"] == {"type": "json_schema", "json_schema": schema}


@pytest.mark.parametrize("text", [BILL, PLAIN])
async def test_events_come_in_openais_order(gateway: Any, script: Any, text: str) -> None:
    gateway.policy.answer = lambda body, i: script(["one ", "two"])
    async with gateway.openai.responses.stream(model="winnow", input=text) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    types = [event.type for event in events]
    deltas = types.count("response.output_text.delta")
    assert deltas == (1 if text == BILL else 2), "a winner comes whole"
    assert types == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final.output_text == "one two"
    assert final.usage.output_tokens == (16 if text == BILL else 2)
    assert events[-1].response.model_extra["rerank"]["route"] == ("billing" if text == BILL else "default")


@pytest.mark.parametrize("text", [BILL, PLAIN])
async def test_calls_stream_as_items(gateway: Any, script: Any, text: str) -> None:
    second = CALL | {"index": 1, "id": "call_2"}
    gateway.policy.answer = lambda body, i: script(["Looking."], tool_calls=[CALL, second], finish_reason="tool_calls")
    async with gateway.openai.responses.stream(model="winnow", input=text, tools=[TOOL]) as stream:
        types = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert [item.type for item in final.output] == ["message", "function_call", "function_call"]
    assert [item.call_id for item in final.output[1:]] == ["call_1", "call_2"]
    assert types.count("response.function_call_arguments.done") == 2
    assert types[-1] == "response.completed"


async def test_a_failure_in_mid_stream_is_an_event(gateway: Any, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script(["half", "way"], die_after=1)
    stream = await gateway.openai.responses.create(model="winnow", input=PLAIN, stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "failed"
    assert events[-1].response.error.code == "server_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [5]}, "input.0"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
        ({"input": [{"type": "web_search_call"}]}, "input.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0"),
        ({"input": [{"type": "function_call", "call_id": "c", "arguments": "{}"}]}, "input.0"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools.0.name"),
        ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
async def test_what_it_does_not_do_is_refused_in_a_sentence(gateway: Any, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await gateway.openai.responses.create(model="winnow", input=PLAIN, extra_body=fields)
    body: Any = caught.value.body
    assert body["param"] == param
    assert body["message"].startswith(param)
    assert gateway.policy.bodies == []


async def test_nulls_and_what_has_no_effect_are_accepted(gateway: Any) -> None:
    names = "instructions max_output_tokens stream tools tool_choice text reasoning metadata previous_response_id"
    fields = dict.fromkeys(names.split()) | {
        "store": True,
        "background": False,
        "include": ["reasoning.encrypted_content"],
        "truncation": "auto",
        "service_tier": "auto",
        "prompt_cache_key": "k",
    }
    response = await gateway.openai.responses.create(model="winnow", input=PLAIN, extra_body=fields)
    assert (response.status, response.store, response.metadata) == ("completed", False, {})
