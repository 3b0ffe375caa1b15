"""Bodies in another type or encoding are refused in a sentence."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

BODY = json.dumps({"model": "winnow", "messages": [{"role": "user", "content": "hello"}]}).encode()


@pytest.mark.parametrize(
    "kind", [None, "application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"]
)
async def test_json_is_read_under_its_names_and_without_any(gateway: Any, kind: str | None) -> None:
    response = await gateway.post(content=BODY, headers={"content-type": kind} if kind else {})
    assert response.status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_another_type_is_a_415(gateway: Any, kind: str) -> None:
    response = await gateway.post(content=BODY, headers={"content-type": kind})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (415, "unsupported_media_type")
    assert error["message"] == f"the Content-Type is {kind.partition(';')[0]!r}; send application/json"


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate"])
async def test_a_compressed_body_is_a_415(gateway: Any, encoding: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    response = await gateway.post(content=gzip.compress(BODY), headers=headers)
    assert response.status_code == 415
    assert response.json()["error"]["message"].startswith(
        f"the Content-Encoding is '{encoding}'; send the body as it is"
    )
    assert (await gateway.post(content=BODY, headers={"content-encoding": "identity"})).status_code == 200


async def test_an_empty_body_is_a_400(gateway: Any) -> None:
    response = await gateway.post(content=b"", headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")
    assert response.json()["error"]["message"] == "the body is empty; send a JSON object"
