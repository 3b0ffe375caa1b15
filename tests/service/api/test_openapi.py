"""The document at /openapi.json says what is sent, what comes back, and which errors there are."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest


async def document_of(gateway: Any) -> dict[str, Any]:
    document: dict[str, Any] = (await gateway.http.get(f"{gateway.url}/openapi.json")).json()
    return document


def valid(document: dict[str, Any], schema: str, value: Any) -> bool:
    root = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
    return bool(jsonschema.Draft202012Validator(root).is_valid(value))


async def test_every_path_under_v1_says_who_may_ask_and_what_errors_are(gateway: Any) -> None:
    document = await document_of(gateway)
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert "422" not in operation["responses"]
            assert len(operation["tags"]) == 1
            if not path.startswith("/v1/"):
                assert "security" not in operation
                continue
            assert operation["security"] == [{"key": []}]
            assert {"400", "401", "429", "500"} <= set(operation["responses"])
            if method == "post" and path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
                assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
                assert {"413", "415", "502", "504"} <= set(operation["responses"])
                assert operation["requestBody"]["required"] is True


@pytest.mark.parametrize("text", ["I was charged twice", "hello"])
async def test_real_answers_and_errors_fit_their_schemas(demo: Any, text: str) -> None:
    document, headers = await document_of(demo), {"Authorization": f"Bearer {demo.key}"}
    turns = [{"role": "user", "content": text}]
    for path, fields, schema, broken in (
        ("chat/completions", {"messages": turns}, "ChatCompletion", "choices"),
        ("completions", {"prompt": text}, "TextCompletion", "usage"),
        ("responses", {"input": text}, "ResponseBody", "output"),
    ):
        body = {"model": "winnow", "rerank": {"return_candidates": True}, **fields}
        answer = (await demo.http.post(f"{demo.url}/v1/{path}", json=body, headers=headers)).json()
        assert valid(document, schema, answer)
        assert not valid(document, schema, {name: value for name, value in answer.items() if name != broken})
        error = (await demo.http.post(f"{demo.url}/v1/{path}", json=body | {"top_p": 7}, headers=headers)).json()
        assert valid(document, "Error", error)
        assert not valid(document, "Error", answer)


async def test_request_schemas_take_what_the_gateway_takes(gateway: Any) -> None:
    document = await document_of(gateway)
    asked = {"model": "winnow", "messages": [{"role": "user", "content": "hello"}]}
    parts = [{"role": "user", "content": [{"type": "text", "text": "hello", "cache_control": None}]}]
    taken: list[dict[str, Any]] = [
        {},
        {"n": None, "tools": None, "stop": "END", "rerank": None},
        {"stop": ["a"], "min_tokens": 3, "stream_options": {"include_usage": None}},
        {"messages": parts},
    ]
    for fields in taken:
        assert valid(document, "ChatRequest", asked | fields), fields
    refused: list[dict[str, Any]] = [{"model": "gpt-9"}, {"messages": []}, {"n": 0}, {"seed": 2**70}, {"nonsense": 1}]
    for fields in [*refused, {"max_tokens": 0}]:
        assert not valid(document, "ChatRequest", asked | fields), fields


async def test_the_document_follows_the_settings(start_gateway: Any) -> None:
    async with start_gateway(passed_parameters=["mirostat"], unknown_parameters="ignore") as gateway:
        schema = (await document_of(gateway))["components"]["schemas"]["ChatRequest"]
    assert "mirostat" in schema["properties"]
    assert "min_tokens" not in schema["properties"]
    assert schema["additionalProperties"] is True
