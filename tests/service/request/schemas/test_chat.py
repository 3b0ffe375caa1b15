"""Fields of a chat request: null is absent, a bound is named, and what an option means is known."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.errors import InvalidRequest
from service.request.schemas import ChatRequest, ParameterRules, parse_chat_request
from service.settings.parameters import PASSED_PARAMETERS

USER = {"role": "user", "content": "Name three trees."}
RULES = ParameterRules(frozenset(PASSED_PARAMETERS))
TOOL = {"type": "function", "function": {"name": "find_charge", "parameters": {"type": "object"}}}
OPTIONAL = [name for name, field in ChatRequest.model_fields.items() if not field.is_required()]


def chat(**fields: Any) -> ChatRequest:
    body = json.dumps({"model": "winnow", "messages": [USER], **fields}).encode()
    return parse_chat_request(body, RULES)[0]


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    return caught.value


@pytest.mark.parametrize("name", [*OPTIONAL, *PASSED_PARAMETERS, "unheard_of"])
def test_null_is_absent(name: str) -> None:
    assert chat(**{name: None}) == chat()


def test_every_optional_field_may_be_null_at_once() -> None:
    assert chat(**dict.fromkeys(OPTIONAL)) == chat()
    nulls = {"mode": None, "n": None, "temperature": None, "budget_ms": None, "locale": None, "return_candidates": None}
    assert chat(rerank=nulls) == chat(rerank={}) == chat()
    options = chat(stream=True, stream_options={"include_usage": None}).stream_options
    assert options is not None
    assert options.include_usage is False


@pytest.mark.parametrize("tools", [None, []])
@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_no_tools_are_no_tools(tools: Any, choice: Any) -> None:
    request = chat(tools=tools, tool_choice=choice, parallel_tool_calls=False)
    assert request.sampling_options() == {}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "find_charge"}}])
def test_a_choice_of_tools_needs_them(choice: Any) -> None:
    assert str(refusal(tools=[], tool_choice=choice)) == "tool_choice needs tools"
    assert chat(tools=[TOOL], tool_choice=choice).sampling_options() == {"tools": [TOOL], "tool_choice": choice}


def test_nulls_in_a_tool_are_absent_and_stay_in_its_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"default": None}}}
    function = {"name": "f", "description": None, "strict": None, "parameters": schema}
    options = chat(tools=[{"type": "function", "function": function, "cache_control": None}]).sampling_options()
    assert options == {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"functions": [{"name": "f"}]}, "functions", "functions is deprecated; send tools"),
        ({"function_call": "auto"}, "function_call", "function_call is deprecated; send tool_choice"),
        ({"n": True}, "n", "n must be a whole number"),
        ({"n": "1"}, "n", "n must be a whole number"),
        ({"n": 1.5}, "n", "n must be a whole number"),
        ({"seed": 10**30}, "seed", "seed must be at most 9223372036854775807"),
        ({"max_tokens": 10**30}, "max_tokens", "max_tokens must be at most 2147483647"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "max_completion_tokens must be at least 1"),
        ({"temperature": True}, "temperature", "temperature must be a number"),
        ({"temperature": "1"}, "temperature", "temperature must be a number"),
        ({"stream": 1}, "stream", "stream must be true or false"),
        ({"stream": "true"}, "stream", "stream must be true or false"),
        ({"stop": ""}, "stop.0", "stop.0 must not be empty"),
        ({"stop": ["a", ""]}, "stop.1", "stop.1 must not be empty"),
        ({"stop": ["a"] * 100}, "stop", "stop must have at most 16 items"),
        ({"stop": 5}, "stop", "stop must be a list"),
        ({"stop": 0}, "stop", "stop must be a list"),
        ({"stop": {}}, "stop", "stop must be a list"),
        ({"user": "u" * 257}, "user", "user must have at most 256 characters"),
        ({"user": "a\0"}, "user", "user holds the character NUL (\\u0000); leave it out"),
        ({"metadata": {"a": {"b": ["\0"]}}}, "metadata.a.b.0", None),
        ({"rerank": {"locale": "de\0"}}, "rerank.locale", None),
        (
            {"rerank": {"locale": "de" + "-abcdefgh" * 4}},
            "rerank.locale",
            "rerank.locale must have at most 32 characters",
        ),
        ({"rerank": {"locale": ""}}, "rerank.locale", None),
        ({"rerank": []}, "rerank", "rerank must be an object"),
        ({"rerank": {"n": True}}, "rerank.n", "rerank.n must be a whole number"),
        ({"stream_options": {"include_usage": "x"}}, "stream_options.include_usage", None),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "tools.0.type must be 'function'"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", "tools.0.function is missing"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice", None),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
            "tool_choice",
            "tool_choice names 'other', which is not among the tools",
        ),
        ({"response_format": {"type": "xml"}}, "response_format", None),
        ({"response_format": {"type": "json_schema"}}, "response_format", None),
        ({"top_logprobs": 3}, "top_logprobs", "top_logprobs needs logprobs: true"),
        ({"logit_bias": {"hello": 1}}, "logit_bias", "logit_bias has 'hello', which is no token id"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "logit_bias must be between -100 and 100 for each token"),
        ({"modalities": ["text", "audio"]}, "modalities.1", "modalities.1 must be 'text'"),
        ({"cache_salt": "mine"}, "cache_salt", "cache_salt is not a parameter of this API"),
        ({"messages": []}, "messages", "messages must have at least 1 item"),
        ({"messages": None}, "messages", "messages is missing"),
    ],
)
def test_a_field_that_does_not_fit_is_named_in_our_words(
    fields: dict[str, Any], param: str, sentence: str | None
) -> None:
    error = refusal(**fields)
    assert error.param == param
    assert str(error).startswith(param)
    assert sentence is None or str(error) == sentence
    assert not any(leak in str(error) for leak in ("Input should", "Value error", "pydantic"))


def test_whole_numbers_may_have_a_point() -> None:
    assert chat(n=1.0, max_tokens=16.0) == chat(n=1, max_tokens=16)


def test_empty_options_are_none() -> None:
    assert chat(stop=[], tools=[], response_format={"type": "text"}, functions=[]).sampling_options() == {}
    assert chat(stop="END").sampling_options() == {"stop": ["END"]}


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.2, "top_p": 0.5, "min_p": 0.1, "max_tokens": 5},
        {"tools": [TOOL], "tool_choice": "auto"},
        {"logprobs": True, "top_logprobs": 2},
        {"top_k": -1, "repetition_penalty": 1, "frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}},
        {"min_tokens": 0, "ignore_eos": False, "stop": []},
        {"user": "u", "metadata": {"a": "b"}, "n": 2, "seed": 4, "verbosity": "low"},
    ],
)
def test_what_leaves_the_samples_alone_changes_nothing(fields: dict[str, Any]) -> None:
    assert chat(**fields).sampling_changes == frozenset()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", 5),
        ("repetition_penalty", 1.1),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -0.5),
        ("logit_bias", {"5": -100}),
        ("stop", "END"),
        ("response_format", {"type": "json_object"}),
        ("min_tokens", 3),
        ("ignore_eos", True),
        ("stop_token_ids", [2]),
        ("structured_outputs", {"regex": "a"}),
        ("reasoning_effort", "low"),
        ("chat_template_kwargs", {"enable_thinking": False}),
    ],
)
def test_what_changes_the_samples_is_named(name: str, value: Any) -> None:
    assert chat(**{name: value}).sampling_changes == {name}


def test_a_forced_call_changes_the_samples() -> None:
    assert chat(tools=[TOOL], tool_choice="required").sampling_changes == {"tool_choice"}
