"""A conversation in every shape that clients send becomes turns that any chat template takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.errors import InvalidRequest
from service.request.schemas import ParameterRules, parse_chat_request

CALL = {"id": "c1", "type": "function", "function": {"name": "find_charge", "arguments": '{"month": "May"}'}}


def turns(*messages: Any) -> list[dict[str, Any]]:
    body = json.dumps({"model": "winnow", "messages": messages}).encode()
    return parse_chat_request(body, ParameterRules())[0].policy_messages()


def refusal(*messages: Any) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        turns(*messages)
    return str(caught.value), caught.value.param


@pytest.mark.parametrize("content", [None, "", [], [{"type": "text", "text": ""}]])
def test_a_turn_of_calls_alone_has_empty_content(content: Any) -> None:
    [turn] = turns({"role": "assistant", "content": content, "tool_calls": [CALL]})
    assert turn == {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize("content", [None, "", []])
@pytest.mark.parametrize("calls", [None, []])
def test_an_assistant_that_said_nothing_keeps_its_turn(content: Any, calls: Any) -> None:
    message = {"role": "assistant", "content": content, "tool_calls": calls}
    assert turns(message) == [{"role": "assistant", "content": ""}]
    assert turns({"role": "assistant"}) == [{"role": "assistant", "content": ""}]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"month": "May"}', '{"month": "May"}'),
        ({"month": "May"}, '{"month":"May"}'),
        ({}, "{}"),
        ("", "{}"),
        (None, "{}"),
        ('{"month": "Ma', "{}"),
        ("[1]", "{}"),
        ("null", "{}"),
        ('"May"', "{}"),
        ("NaN", "{}"),
        ("[" * 5000, "{}"),
    ],
)
def test_arguments_reach_the_template_as_the_text_of_an_object(arguments: Any, text: str) -> None:
    [turn] = turns({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]})
    assert turn["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": text}}]


def test_arguments_nested_out_of_reason_are_refused_where_they_stand() -> None:
    deep = '{"a":' * 101 + "1" + "}" * 101
    message, param = refusal({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": deep}}]})
    assert param == "messages.0.tool_calls.0.function.arguments"
    assert message == f"{param} is nested deeper than 100 levels"
    turns({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": deep[5:-1]}}]})


def test_nulls_inside_messages_parts_and_calls_are_absent() -> None:
    nulls = dict.fromkeys(("name", "tool_calls", "tool_call_id", "refusal", "function_call", "audio", "annotations"))
    call = {"id": None, "type": None, "function": {"name": "f", "arguments": None}, "index": None}
    assert turns(
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": None}], **nulls},
        {"role": "assistant", "content": None, **nulls, "tool_calls": [call]},
        {"role": "tool", "content": None, **nulls},
    ) == [
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "content": ""},
    ]


def test_unknown_keys_of_turns_parts_and_calls_are_ignored() -> None:
    part = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}, "annotations": []}
    assert turns(
        {"role": "system", "content": [part], "id": "m1", "cache_control": {"type": "ephemeral"}},
        {"role": "assistant", "content": "ok", "tool_calls": [CALL | {"index": 0, "extra_content": {}}]},
    ) == [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": "ok", "tool_calls": [CALL]},
    ]


def test_several_parts_stay_parts_and_results_keep_their_call() -> None:
    parts = [{"type": "text", "text": "two"}, {"type": "text", "text": "charges"}]
    [turn] = turns({"role": "tool", "tool_call_id": "c1", "name": "find_charge", "content": parts})
    assert turn == {"role": "tool", "content": parts, "name": "find_charge", "tool_call_id": "c1"}


def test_what_the_assistant_refused_with_is_what_it_said() -> None:
    assert turns(
        {"role": "assistant", "content": None, "refusal": "A person will answer."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": "said", "refusal": None},
    ) == [
        {"role": "assistant", "content": "A person will answer."},
        {"role": "assistant", "content": "No."},
        {"role": "assistant", "content": "said"},
    ]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("image_url", "an image"),
        ("input_image", "an image"),
        ("input_audio", "audio"),
        ("file", "a file"),
        ("video_url", "a video"),
    ],
)
def test_media_are_refused_by_what_they_are(kind: str, name: str) -> None:
    content = [{"type": "text", "text": "What is this?"}, {"type": kind, kind: {"url": "data:,"}}]
    message, param = refusal({"role": "user", "content": "a"}, {"role": "user", "content": content})
    assert (message, param) == (f"messages.1.content.1 is {name}; only text can be scored", "messages.1.content.1")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "wizard", "content": "x"}, "messages.0.role"),
        ({"content": "x"}, "messages.0.role"),
        ({"role": "user"}, "messages.0.content"),
        ({"role": "user", "content": None}, "messages.0.content"),
        ({"role": "user", "content": []}, "messages.0.content"),
        ({"role": "user", "content": 5}, "messages.0.content"),
        ({"role": "user", "content": {"type": "text", "text": "x"}}, "messages.0.content"),
        ({"role": "user", "content": ["x"]}, "messages.0.content.0"),
        ({"role": "user", "content": [{"text": "x"}]}, "messages.0.content.0"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content.0.text"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "messages.0.content.0.text"),
        ({"role": "user", "content": [{"type": ["text"], "text": "x"}]}, "messages.0.content.0"),
        ({"role": "user", "content": "x", "name": 5}, "messages.0.name"),
        ({"role": "user", "content": "x", "name": "a\0"}, "messages.0.name"),
        ({"role": "assistant", "content": "x", "function_call": {"name": "f"}}, "messages.0.function_call"),
        ({"role": "assistant", "tool_calls": {}}, "messages.0.tool_calls"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages.0.tool_calls.0.function"),
        ({"role": "assistant", "tool_calls": [{"type": "custom"}]}, "messages.0.tool_calls.0.type"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]},
            "messages.0.tool_calls.0.function.name",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]},
            "messages.0.tool_calls.0.function.arguments",
        ),
        ("x", "messages.0"),
    ],
)
def test_the_path_to_what_does_not_fit_is_named(message: Any, param: str) -> None:
    text, named = refusal(message)
    assert named == param
    assert text.startswith(param)
    assert not any(leak in text for leak in ("Input should", "Value error", "pydantic", "type="))


def test_nul_in_a_text_is_the_replacement_character() -> None:
    assert turns(
        {"role": "user", "content": "a\0b"}, {"role": "user", "content": [{"type": "text", "text": "\0"}]}
    ) == [
        {"role": "user", "content": "a\ufffdb"},
        {"role": "user", "content": "\ufffd"},
    ]
