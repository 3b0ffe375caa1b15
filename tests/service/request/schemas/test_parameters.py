"""Parameters beyond OpenAI's: passed on, refused or ignored as the operator says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.errors import InvalidRequest, SetupError
from service.request.schemas import ChatRequest, ParameterRules, parse_chat_request
from service.settings import load_settings

PASSED = frozenset({"chat_template_kwargs", "guided_json", "guided_regex", "structured_outputs"})


def parsed(rules: ParameterRules, **fields: Any) -> tuple[ChatRequest, tuple[str, ...]]:
    body = {"model": "winnow", "messages": [{"role": "user", "content": "x"}], **fields}
    return parse_chat_request(json.dumps(body).encode(), rules)


def test_what_the_operator_lists_reaches_the_policy() -> None:
    request, ignored = parsed(ParameterRules(PASSED), chat_template_kwargs={"enable_thinking": False})
    assert request.sampling_options() == {"chat_template_kwargs": {"enable_thinking": False}}
    assert ignored == ()


def test_what_is_not_listed_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match=r"^chat_template_kwargs is not a parameter") as caught:
        parsed(ParameterRules(), chat_template_kwargs={})
    assert (caught.value.param, caught.value.code) == ("chat_template_kwargs", "unknown_parameter")


def test_or_ignored_and_told() -> None:
    request, ignored = parsed(ParameterRules(unknown="ignore"), chat_id="c", session_id="s", cache_salt="mine")
    assert request.sampling_options() == {}
    assert ignored == ("chat_id", "session_id", "cache_salt")


def test_effort_of_reasoning_is_ignored_where_it_does_not_pass() -> None:
    request, ignored = parsed(ParameterRules(), reasoning_effort="low")
    assert (request.sampling_options(), ignored) == ({}, ("reasoning_effort",))
    request, ignored = parsed(ParameterRules(frozenset({"reasoning_effort"})), reasoning_effort="low")
    assert (request.sampling_options(), ignored) == ({"reasoning_effort": "low"}, ())


def test_older_names_of_guided_decoding_become_structured_outputs() -> None:
    request, _ = parsed(ParameterRules(PASSED), guided_json={"type": "object"})
    assert request.sampling_options() == {"structured_outputs": {"json": {"type": "object"}}}


@pytest.mark.parametrize("first", ["guided_regex", "structured_outputs"])
def test_two_constraints_are_refused(first: str) -> None:
    both = {first: {"regex": "a"} if first == "structured_outputs" else "a", "guided_json": {}}
    for fields in (both, dict(reversed(both.items()))):
        with pytest.raises(InvalidRequest, match="send one") as caught:
            parsed(ParameterRules(PASSED), **fields)
        assert caught.value.param == list(fields)[-1]


@pytest.mark.parametrize("name", ["model", "cache_salt", "priority", "messages", "stream", "n", "seed"])
def test_what_the_gateway_sets_cannot_be_listed(name: str) -> None:
    with pytest.raises(SetupError, match=f"passed_parameters.*{name}"):
        load_settings(passed_parameters=("min_tokens", name))
