"""When a stream starts, and how what fails before and after is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from starlette.responses import JSONResponse

BILL, PLAIN = "I was charged twice", "hello"


def refuse(body: dict[str, Any], index: int) -> JSONResponse:
    return JSONResponse({"error": {"message": "the prompt is longer than the context"}}, 400)


@pytest.mark.parametrize("text", [BILL, PLAIN])
@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses"])
async def test_what_the_policy_refuses_is_a_400_when_streaming_too(gateway: Any, text: str, path: str) -> None:
    gateway.policy.answer = refuse
    asked: dict[str, dict[str, Any]] = {
        "chat/completions": {"messages": [{"role": "user", "content": text}]},
        "completions": {"prompt": text},
        "responses": {"input": text},
    }
    response = await gateway.http.post(
        f"{gateway.url}/v1/{path}",
        json={"model": "winnow", "stream": True, **asked[path]},
        headers={"Authorization": f"Bearer {gateway.key}"},
    )
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert response.json()["error"]["code"] == "rejected_by_policy"


async def test_openai_python_raises_it_as_a_bad_request(gateway: Any) -> None:
    gateway.policy.answer = refuse
    with pytest.raises(openai.BadRequestError):
        await gateway.openai.chat.completions.create(
            model="winnow", messages=[{"role": "user", "content": PLAIN}], stream=True
        )


async def test_a_failure_after_the_start_is_an_event_that_ends_the_stream(start_gateway: Any) -> None:
    async with start_gateway(keepalive_seconds=0.1, routes={"billing": {"on_scorer_failure": "error"}}) as gateway:
        gateway.scorer.pause, gateway.scorer.down = 0.5, False
        asking = asyncio.create_task(gateway.ask(BILL, stream=True))
        await asyncio.sleep(0.3)
        gateway.scorer.down = True
        response = await asking
    assert response.status_code == 200
    assert response.text.startswith(": winnow is sampling\n\n")
    *_, last = response.text.strip().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "scorer_unavailable"


@pytest.mark.parametrize(("late", "status"), [(False, 500), (True, 200)])
async def test_a_defect_of_ours_is_told_without_its_words(start_gateway: Any, late: bool, status: int) -> None:
    def fail(text: str) -> float:
        raise RuntimeError("secret")

    async with start_gateway(keepalive_seconds=0.1 if late else 60) as gateway:
        gateway.scorer.value, gateway.scorer.pause = fail, 0.4 if late else 0.0
        response = await gateway.ask(BILL, stream=True)
        assert (await gateway.http.get(f"{gateway.url}/livez")).status_code == 200
    assert response.status_code == status
    assert "secret" not in response.text
    body = response.text.rpartition("data: ")[2] if late else response.text
    assert json.loads(body)["error"]["code"] == "internal"


async def test_a_client_that_leaves_before_the_start_gives_its_permit_back(gateway: Any, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script(["slow"] * 50, pause=0.1)
    asking = asyncio.create_task(gateway.ask(BILL, stream=True))
    async with asyncio.timeout(5):
        while len(gateway.policy.bodies) < 8:
            await asyncio.sleep(0.02)
        asking.cancel()
        while gateway.policy.cut_off < 8:
            await asyncio.sleep(0.02)
        while (await gateway.http.get(f"{gateway.url}/health")).json()["inflight"]:
            await asyncio.sleep(0.02)


async def test_ignored_parameters_are_named_in_a_header(start_gateway: Any) -> None:
    async with start_gateway(unknown_parameters="ignore") as gateway:
        fields = {"chat_id": "c", "session_id": "s", "b\u00e4d,\r\n": 1, "cache_salt": "mine"}
        for stream in (False, True):
            response = await gateway.ask(PLAIN, stream=stream, **fields)
            assert response.status_code == 200
            names = response.headers["x-winnow-ignored"]
            assert names == "chat_id,session_id,b%C3%A4d%2C%0D%0A,cache_salt"
        assert not set(gateway.policy.bodies[0]) & set(fields) - {"cache_salt"}
        assert gateway.policy.bodies[0]["cache_salt"] != "mine"


async def test_passed_parameters_reach_every_candidate(gateway: Any) -> None:
    await gateway.ask(BILL, min_tokens=3, chat_template_kwargs={"enable_thinking": False})
    assert len(gateway.policy.bodies) == 8
    for body in gateway.policy.bodies:
        assert (body["min_tokens"], body["chat_template_kwargs"]) == (3, {"enable_thinking": False})
