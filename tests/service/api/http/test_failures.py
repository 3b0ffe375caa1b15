"""Errors that no handler of ours raised have OpenAI's shape too."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/images/generations", "/v1/audio/speech", "/nothing"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_is_not_served_says_what_is(gateway: Any, method: str, path: str) -> None:
    response = await gateway.http.request(method, gateway.url + path)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "unknown_url", None)
    assert error["message"].startswith(f"there is no {path} here; Winnow serves POST /v1/chat/completions")


async def test_a_method_that_a_path_does_not_take_names_those_that_it_takes(gateway: Any) -> None:
    response = await gateway.http.delete(f"{gateway.url}/v1/chat/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["error"] == {
        "message": "/v1/chat/completions takes POST",
        "type": "invalid_request_error",
        "param": None,
        "code": "method_not_allowed",
    }


async def test_a_query_parameter_that_does_not_fit_is_named(gateway: Any) -> None:
    response = await gateway.http.get(f"{gateway.url}/v1/reviews", params={"limit": "many"})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["message"]) == (400, "limit", "limit must be a whole number")


async def test_a_bare_number_is_no_date(start_gateway: Any) -> None:
    async with start_gateway() as gateway:
        for value in ("0.5", "1700000000", "-1"):
            response = await gateway.http.get(f"{gateway.url}/v1/labels/pairs", params={"until": value})
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (400, "until")
            assert error["message"] == "until: must be a date and time, such as 2026-11-25T12:00:00Z"
