"""Browsers: a preflight needs no key, and only listed origins are told yes."""

from __future__ import annotations

from typing import Any

import pytest

PAGE = "http://localhost:3000"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


@pytest.mark.parametrize("origins", [[PAGE], ["*"]])
async def test_a_preflight_of_a_listed_origin_needs_no_key(start_gateway: Any, origins: list[str]) -> None:
    async with start_gateway(cors_origins=origins) as gateway:
        response = await gateway.http.options(f"{gateway.url}/v1/chat/completions", headers=PREFLIGHT)
    assert response.status_code in (200, 204)
    assert response.headers["access-control-allow-origin"] == origins[0]
    assert "authorization" in response.headers["access-control-allow-headers"].lower()
    assert "POST" in response.headers["access-control-allow-methods"]


async def test_a_page_may_read_our_headers_and_our_errors(start_gateway: Any) -> None:
    async with start_gateway(cors_origins=[PAGE]) as gateway:
        response = await gateway.post(
            json={"model": "winnow", "messages": [{"role": "user", "content": "hello"}]}, headers={"origin": PAGE}
        )
        refused = await gateway.http.get(f"{gateway.url}/v1/models", headers={"origin": PAGE})
    assert response.headers["access-control-allow-origin"] == PAGE
    exposed = set(response.headers["access-control-expose-headers"].split(", "))
    ours = {name for name in response.headers if name.startswith(("x-winnow-", "x-ratelimit-", "x-request-id"))}
    assert len(ours) >= 4
    assert ours <= exposed
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, PAGE)


async def test_another_origin_is_told_nothing(start_gateway: Any) -> None:
    async with start_gateway(cors_origins=["https://chat.example"]) as gateway:
        preflight = await gateway.http.options(f"{gateway.url}/v1/chat/completions", headers=PREFLIGHT)
        answer = await gateway.http.get(f"{gateway.url}/livez", headers={"origin": PAGE})
    assert "access-control-allow-origin" not in preflight.headers
    assert "access-control-allow-origin" not in answer.headers


async def test_it_is_off_by_default(gateway: Any) -> None:
    preflight = await gateway.http.options(f"{gateway.url}/v1/chat/completions", headers=PREFLIGHT)
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control-")]
