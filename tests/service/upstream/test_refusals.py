"""Errors of policies, as vLLM, llama.cpp, Ollama, TGI and hosted APIs word them, in the gateway's words."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from service.errors import ApiError, InvalidRequest, PolicyOverloaded, PolicyUnavailable
from service.upstream.refusals import refusal, seconds_of

REQUEST: dict[str, Any] = {
    "messages": [{"role": "user", "content": "my secret"}],
    "model": "m",
    "n": 1,
    "max_tokens": 100,
    "temperature": 0.8,
    "seed": 1,
    "cache_salt": "s",
}
CALL = {"tools": [{"type": "function"}], "tool_choice": "auto"}
FORMAT = {"response_format": {"type": "json_schema"}}


def told(message: str, status: int = 400, request: dict[str, Any] = REQUEST, **fields: Any) -> ApiError:
    body = {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status} | fields}
    return refusal(status, json.dumps(body).encode(), request)


@pytest.mark.parametrize(
    ("message", "fields", "numbers"),
    [
        (
            "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4900 in the "
            "messages, 100 in the completion). Please reduce the length.",
            {},
            (4900, 4096),
        ),
        (
            "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input "
            "tokens, which exceeds this limit even without any output tokens.",
            {"param": "input_tokens"},
            (4097, 4096),
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is 4096 "
            "tokens and your request has 100 input tokens (5000 > 4096 - 100).",
            {"param": "max_tokens"},
            (100, 4096),
        ),
        ("The decoder prompt (length 5000) is longer than the maximum model length of 4096.", {}, (5000, 4096)),
        (
            "the request exceeds the available context size, try increasing it",
            {"type": "exceed_context_size_error", "n_prompt_tokens": 5000, "n_ctx": 4096},
            (5000, 4096),
        ),
        (
            "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
            {},
            (5000, 4096),
        ),
        (
            "This model's maximum context length is 16385 tokens. However, your messages resulted in 20001 tokens.",
            {"code": "context_length_exceeded", "param": "messages", "type": "invalid_request_error"},
            (20001, 16385),
        ),
        ("`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and 100", {}, (5000, 4096)),
        ("Input exceeds the context window", {}, (None, None)),
    ],
)
def test_a_context_that_is_exceeded_is_told_with_its_numbers(
    message: str, fields: dict[str, Any], numbers: tuple[int | None, int | None]
) -> None:
    error = told(message, **fields)
    prompt, limit = numbers
    assert isinstance(error, InvalidRequest)
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "messages")
    tokens = f" ({prompt} tokens)" if prompt else ""
    context = f" of {limit} tokens" if limit else ""
    assert str(error) == (
        f"the messages{tokens} and max_tokens (100) exceed the policy's context{context}; "
        "shorten the messages or lower max_tokens"
    )


@pytest.mark.parametrize(
    ("message", "fields", "param", "code"),
    [
        ("Unrecognized request argument supplied: top_k", {}, "top_k", "unsupported_parameter"),
        (
            "Unknown parameter: 'min_p'.",
            {"code": "unknown_parameter", "param": "min_p"},
            "min_p",
            "unsupported_parameter",
        ),
        (
            "[{'type': 'extra_forbidden', 'loc': ('body', 'min_p'), 'msg': 'Extra inputs', 'input': {'top_k': 1}}]",
            {},
            "min_p",
            "unsupported_parameter",
        ),
        ("top_k must be -1 (disable), or at least 1, got -5.", {}, "top_k", "rejected_by_policy"),
        ("temperature must be non-negative, got -1.0.", {}, "temperature", "rejected_by_policy"),
        ("Invalid 'seed': integer above maximum value", {"param": "seed"}, "seed", "rejected_by_policy"),
        (
            "[{'type': 'missing', 'loc': ('body', 'messages', 0, 'user', 'content'), 'input': {'top_k': 'my secret'}}]",
            {},
            "messages",
            "rejected_by_policy",
        ),
        ("Conversation roles must alternate user/assistant/user/assistant/...", {}, "messages", "rejected_by_policy"),
        ("System role not supported: my secret", {}, "messages", "rejected_by_policy"),
        ("something that nobody has seen: my secret", {}, "seed", "rejected_by_policy"),
    ],
)
def test_the_parameter_at_fault_is_named(message: str, fields: dict[str, Any], param: str, code: str) -> None:
    error = told(message, request={"top_k": 1, "min_p": 0.1} | REQUEST, **fields)
    assert isinstance(error, InvalidRequest)
    assert (error.status, error.param, error.code) == (400, param, code)
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("message", "fields", "wish", "param"),
    [
        ('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser', {}, CALL, "tool_choice"),
        ("Invalid tool definition: my secret", {}, CALL, "tools"),
        ("Failed to convert the JSON schema to a grammar", {}, CALL, "tools"),
        ("Failed to convert the JSON schema to a grammar", {}, FORMAT, "response_format"),
        ("Invalid schema for response_format 'x'", {}, FORMAT, "response_format"),
        ("Invalid value for `tool_choice`: my secret!", {"param": "tool_choice"}, CALL, "tool_choice"),
        ("x", {"param": "tools[0].function.parameters"}, CALL, "tools"),
        ("something that nobody has seen", {}, CALL, "tools"),
        ("something that nobody has seen", {}, FORMAT, "response_format"),
    ],
)
def test_tools_and_formats_are_named(message: str, fields: dict[str, Any], wish: dict[str, Any], param: str) -> None:
    error = told(message, request=REQUEST | wish, **fields)
    assert isinstance(error, InvalidRequest)
    assert error.param == param
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("status", "shown", "code", "kind"),
    [
        (404, 502, "policy_model_not_found", "misconfigured"),
        (401, 502, "policy_unauthorized", "misconfigured"),
        (403, 502, "policy_unauthorized", "misconfigured"),
        (429, 503, "policy_overloaded", "overloaded"),
        (307, 502, "policy_unavailable", "misconfigured"),
        (500, 502, "policy_unavailable", "failed"),
        (503, 502, "policy_unavailable", "failed"),
        (418, 502, "policy_unavailable", "failed"),
    ],
)
def test_what_is_not_the_clients_fault_is_no_4xx(status: int, shown: int, code: str, kind: str) -> None:
    error = told("CUDA OOM at 10.0.0.5: top_k", status)
    assert isinstance(error, PolicyUnavailable)
    assert (error.status, error.code, error.kind) == (shown, code, kind)
    assert "10.0.0.5" not in json.dumps(error.body())


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>10.0.0.5</html>",
        b"[]",
        b"null",
        b'{"error": "10.0.0.5"}',
        b'{"error": null}',
        b'{"error": [{"message": "10.0.0.5"}]}',
        b'{"object": "error", "message": "10.0.0.5", "code": 400}',
        b'{"detail": [{"loc": ["body"], "input": "10.0.0.5"}]}',
        b"\xff\xfe",
    ],
)
def test_every_shape_of_error_is_a_400_in_our_words(status: int, body: bytes) -> None:
    error = refusal(status, body, REQUEST)
    assert isinstance(error, InvalidRequest)
    assert error.status == 400
    assert error.code == "rejected_by_policy"
    assert "10.0.0.5" not in str(error)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2),
        ("2.1", 3),
        ("0.2", 1),
        *((text, None) for text in ("0", "-1", "nan", "inf", "1e9", "Wed, 21 Oct", "", None)),
    ],
)
def test_retry_after_is_whole_seconds_rounded_up(header: str | None, seconds: int | None) -> None:
    assert seconds_of(header) == seconds
    error = refusal(429, b"", REQUEST, header)
    assert isinstance(error, PolicyOverloaded)
    assert error.retry_after == (seconds or 1)


def test_the_log_has_no_text_of_the_policy(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        told("my secret", type="my secret type\n")
        told("my secret", 500)
    assert "secret" not in caplog.text
    assert "status=400" in caplog.text
    # sha256 of "my secret"
    assert "9 characters (sha256 b9d1d013f600)" in caplog.text
