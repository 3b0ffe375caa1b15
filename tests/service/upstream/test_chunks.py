"""Chunks of every odd shape become OpenAI's, or an error of ours."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.errors import InvalidRequest, PolicyUnavailable
from service.upstream.chunks import ChunkReader, is_plain


def read(*chunks: Any) -> list[dict[str, Any]]:
    reader = ChunkReader({})
    return [reader.read(json.dumps(chunk).encode()) for chunk in chunks]


def delta_of(delta: Any, **choice: Any) -> dict[str, Any]:
    [chunk] = read({"choices": [{"index": 0, "delta": delta, **choice}]})
    normal: dict[str, Any] = chunk["choices"][0]["delta"]
    return normal


@pytest.mark.parametrize(
    ("sent", "content"), [("a", "a"), (None, None), ("", ""), ([{"type": "text", "text": "a"}, {"type": "x"}], "a")]
)
def test_content_is_text_or_none(sent: Any, content: str | None) -> None:
    assert delta_of({"content": sent}) == {"content": content}


@pytest.mark.parametrize("choice", [{"delta": None}, {}, {"delta": {}}, {"message": None}])
def test_a_missing_delta_is_empty(choice: dict[str, Any]) -> None:
    [chunk] = read({"id": "x", "choices": [choice]})
    assert chunk == {"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": None}]}


@pytest.mark.parametrize("choices", [None, []])
def test_missing_choices_are_none(choices: Any) -> None:
    assert read({"choices": choices}, {}) == [{"choices": []}, {"choices": []}]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_stands_under_both_names(name: str) -> None:
    assert delta_of({"content": None, name: "so"}) == {"content": None, "reasoning": "so", "reasoning_content": "so"}


def test_another_choice_than_the_first_is_left_out() -> None:
    [chunk] = read({"choices": [{"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "a"}}]})
    assert [choice["delta"]["content"] for choice in chunk["choices"]] == ["a"]
    assert read({"choices": [{"index": 1, "delta": {"content": "b"}}]})[0]["choices"] == []


@pytest.mark.parametrize("part", [{"index": None}, {}])
def test_the_fragments_of_a_tool_call_have_one_index(part: dict[str, Any]) -> None:
    sent = [
        part | {"id": "call_a", "function": {"name": "find", "arguments": ""}},
        part | {"function": {"arguments": '{"a"'}},
        part | {"function": {"arguments": ": 1}"}},
    ]
    chunks = read(*({"choices": [{"delta": {"tool_calls": [p]}}]} for p in sent))
    assert [c["choices"][0]["delta"]["tool_calls"][0]["index"] for c in chunks] == [0, 0, 0]


@pytest.mark.parametrize(
    ("sent", "usage"),
    [
        ({"prompt_tokens": 3, "completion_tokens": None}, (3, 0, 0)),
        ({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}, (3, 2, 5)),
        ({"prompt_tokens": "3", "completion_tokens": -1, "total_tokens": 2.5}, (0, 0, 0)),
    ],
)
def test_usage_has_whole_numbers(sent: dict[str, Any], usage: tuple[int, int, int]) -> None:
    [chunk] = read({"choices": [], "usage": sent | {"prompt_tokens_details": {"cached_tokens": 1}}})
    assert chunk["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert tuple(chunk["usage"][name] for name in names) == usage


@pytest.mark.parametrize("odd", [None, 7, [], "x"])
def test_details_and_logprobs_are_objects_or_absent(odd: Any) -> None:
    [chunk] = read({"choices": [{"delta": {}, "logprobs": odd}], "usage": {"prompt_tokens_details": odd, "x": 1}})
    assert "logprobs" not in chunk["choices"][0]
    assert chunk["usage"] == {"x": 1, "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@pytest.mark.parametrize(("sent", "reason"), [("eos_token", "stop"), ("tool_use", "tool_calls"), ("", None)])
def test_reasons_to_finish_are_openais(sent: str, reason: str | None) -> None:
    [chunk] = read({"choices": [{"delta": {}, "finish_reason": sent}]})
    assert chunk["choices"][0]["finish_reason"] == reason


SECRET = "CUDA OOM at 10.0.0.5"


@pytest.mark.parametrize(
    "error", [SECRET, {"message": SECRET}, {"message": SECRET, "code": 500}, [{"message": SECRET}], {"type": "x"}, 7]
)
def test_an_error_in_the_stream_is_ours(error: Any) -> None:
    with pytest.raises(PolicyUnavailable, match=r"^the policy failed while it sampled$") as caught:
        read({"error": error, "choices": []})
    assert caught.value.code == "policy_unavailable"


def test_an_error_about_the_request_is_the_clients() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read({"error": {"message": "maximum context length is 512 tokens", "type": "BadRequestError", "code": 400}})
    assert caught.value.code == "context_length_exceeded"


def test_a_null_error_is_none() -> None:
    assert read({"error": None, "choices": []})[0]["choices"] == []


@pytest.mark.parametrize(
    "payload",
    [
        b"<html>10.0.0.5</html>",
        b"[1]",
        b'"x"',
        b"7",
        b'{"choices": 7}',
        b'{"choices": [7]}',
        b'{"choices": [{"delta": 7}]}',
        b'{"choices": [{"delta": {"content": 7}}]}',
        b'{"choices": [{"delta": {"tool_calls": [7]}}]}',
        b'{"choices": [{"finish_reason": "error"}]}',
        b'{"choices": [{"finish_reason": 7}]}',
    ],
)
def test_nonsense_is_an_error_that_quotes_nothing(payload: bytes) -> None:
    with pytest.raises(PolicyUnavailable) as caught:
        ChunkReader({}).read(payload)
    assert "10.0.0.5" not in str(caught.value)


def test_a_whole_completion_is_one_chunk() -> None:
    calls = [{"id": "a", "function": {"name": "f", "arguments": {}}}]
    message = {"content": None, "reasoning": "so", "tool_calls": calls}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    [choice] = ChunkReader({}).whole(json.dumps(body).encode())["choices"]
    assert choice["delta"]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert choice["delta"]["reasoning_content"] == "so"
    with pytest.raises(PolicyUnavailable, match="without a choice"):
        ChunkReader({}).whole(b'{"choices": []}')


BEFORE = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def plain(delta: Any, spaces: bool = True, **beside: Any) -> bool:
    body = BEFORE | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} | beside
    return is_plain(json.dumps(body, separators=None if spaces else (",", ":")).encode())


@pytest.mark.parametrize("spaces", [True, False])
def test_chunks_of_text_are_plain(spaces: bool) -> None:
    assert plain({"content": 'a "tool_calls": "error" é'}, spaces)
    assert plain({"role": "assistant", "content": ""}, spaces, usage=None)
    assert not plain({"content": "a"}, spaces, usage={"completion_tokens": 1})


@pytest.mark.parametrize(
    "delta",
    [
        None,
        {},
        {"content": None},
        {"content": [{"text": "a"}]},
        {"content": "a", "tool_calls": [{"index": None}]},
        {"content": "a", "reasoning": "b"},
        {"content": "", "reasoning_content": "b"},
        {"role": None, "content": "a"},
    ],
)
def test_all_others_are_read(delta: Any) -> None:
    assert not plain(delta)
    assert not plain(delta, spaces=False)


def test_two_choices_or_an_error_beside_text_are_read() -> None:
    choice = {"index": 0, "delta": {"content": "a"}}
    assert not is_plain(json.dumps({"choices": [choice, choice | {"index": 1}]}).encode())
    assert not plain({"content": "a"}, error={"message": "x"})
    assert not is_plain(json.dumps({"choices": [choice]}).encode()[:-1])
