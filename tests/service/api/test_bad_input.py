"""Bad input gets a clear OpenAI-shaped error, and nothing crashes."""

from __future__ import annotations

from typing import Any

import pytest

USER = [{"role": "user", "content": "I was charged twice"}]


def _deep(levels: int) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for _ in range(levels):
        nested = {"a": nested}
    return nested


DEEP: dict[str, Any] = {"name": "f", "parameters": _deep(300)}
CASES: list[tuple[str, dict[str, Any], int, str]] = [
    ("empty messages", {"messages": []}, 400, "messages"),
    ("no messages", {"messages": None}, 400, "messages"),
    ("wrong role", {"messages": [{"role": "wizard", "content": "x"}]}, 400, "messages.0.role"),
    ("image part", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages.0.content.0"),
    ("unknown model", {"model": "gpt-9"}, 404, "model"),
    ("n above the candidates", {"n": 9}, 400, "n"),
    ("n of zero", {"n": 0}, 400, "n"),
    ("too many candidates", {"rerank": {"n": 17}}, 400, "rerank.n"),
    ("negative budget", {"rerank": {"budget_ms": -5}}, 400, "rerank.budget_ms"),
    ("budget below what a route can keep", {"rerank": {"budget_ms": 1}}, 400, "rerank.budget_ms"),
    ("budget above the bound", {"rerank": {"budget_ms": 10**9}}, 400, "rerank.budget_ms"),
    ("laxer threshold", {"rerank": {"accept_threshold": 0.1}}, 400, "rerank.accept_threshold"),
    ("unknown mode", {"rerank": {"mode": "turbo"}}, 400, "rerank.mode"),
    ("unknown rerank field", {"rerank": {"policy": "mine"}}, 400, "rerank.policy"),
    ("temperature", {"temperature": 9}, 400, "temperature"),
    ("a string as temperature", {"temperature": "hot"}, 400, "temperature"),
    ("user of more than the store holds", {"user": "u" * 257}, 400, "user"),
    ("NUL in user", {"user": "a\0b"}, 400, "user"),
    ("NUL in locale", {"rerank": {"locale": "de\0"}}, 400, "rerank.locale"),
    ("deprecated functions", {"functions": [{"name": "f"}]}, 400, "functions"),
    ("a tool's schema nested out of reason", {"tools": [{"type": "function", "function": DEEP}]}, 400, "tools"),
    ("engine arguments", {"prompt_logprobs": 1}, 400, "prompt_logprobs"),
    ("zero tokens", {"max_tokens": 0}, 400, "max_tokens"),
    ("more tokens than the route allows", {"max_tokens": 4097}, 400, "max_tokens"),
    ("the same by its newer name", {"max_completion_tokens": 4097}, 400, "max_completion_tokens"),
    ("huge seed", {"seed": 2**70}, 400, "seed"),
]


@pytest.mark.parametrize(("name", "fields", "status", "param"), CASES, ids=[case[0] for case in CASES])
async def test_a_field_that_does_not_fit_is_named(
    gateway: Any, name: str, fields: dict[str, Any], status: int, param: str
) -> None:
    response = await gateway.post(json={"model": "winnow", "messages": USER, **fields})
    error = response.json()["error"]
    assert response.status_code == status
    assert error["param"] == param
    assert set(error) == {"message", "type", "param", "code"}
    assert gateway.policy.bodies == [], "nothing was sampled"
    assert "x-request-id" in response.headers


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe\x00",
        b'{"model": "winnow", "messages": [{"role": "user", "content": "\xff"}]}',
        b'{"model": "winnow", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "winnow", "temperature": 1e999, "messages": [{"role": "user", "content": "x"}]}',
        b'{"model": "winnow", "metadata": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
        b'{"model": "winnow", "messages": ' + b"[" * 900 + b"]" * 900 + b"}",
    ],
)
async def test_what_is_not_a_json_object_is_a_400(gateway: Any, content: bytes) -> None:
    response = await gateway.post(content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_a_body_over_the_limit_is_a_413_announced_or_not(start_gateway: Any) -> None:
    async with start_gateway(max_body_bytes=2_000) as gateway:
        assert (await gateway.ask("x" * 3_000)).status_code == 413

        async def parts() -> Any:
            for _ in range(30):
                yield b" " * 1_000

        response = await gateway.post(content=parts())
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "body_too_large"
        assert (await gateway.ask("fine")).status_code == 200


@pytest.mark.parametrize("text", ["", "\x00\x01", "🙂" * 2_000, "\ud83d", "a" * 100_000, "<|im_end|>" * 50])
async def test_any_text_gets_an_answer(gateway: Any, text: str) -> None:
    body = {"model": "winnow", "messages": [{"role": "user", "content": text}]}
    response = await gateway.post(
        content=__import__("json").dumps(body).encode(), headers={"content-type": "application/json"}
    )
    # A lone surrogate is not Unicode: it is refused, not passed on.
    assert response.status_code == (400 if text == "\ud83d" else 200)


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer wrong", "Basic abc", "Bearer \u00e4"])
async def test_nobody_is_answered_without_a_key(gateway: Any, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/rerank/x")):
        response = await gateway.http.request(method, gateway.url + path, headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"


async def test_unknown_paths_and_methods_have_openai_bodies(gateway: Any) -> None:
    missing = await gateway.http.get(f"{gateway.url}/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown_url")
    wrong = await gateway.http.get(f"{gateway.url}/v1/chat/completions")
    assert wrong.status_code == 405
    assert wrong.json()["error"]["type"] == "invalid_request_error"
