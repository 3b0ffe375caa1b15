"""The gateway over HTTP: what is sampled, selected, decided and answered."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai
import pytest
from starlette.responses import JSONResponse

from service.request.plan import candidate_seed


async def test_best_of_eight_sends_the_highest_score(gateway: Any, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script([f"answer {'!' * i}"])
    response = await gateway.ask(seed=42, rerank={"return_candidates": True})
    answer = response.json()
    rerank = answer["rerank"]
    assert answer["choices"][0]["message"]["content"].count("!") == 7, "the longest text has the highest fake score"
    assert (rerank["route"], rerank["decision"], rerank["stop_reason"]) == ("billing", "accept", "all_scored")
    assert (rerank["n_requested"], rerank["n_completed"], rerank["n_scored"]) == (8, 8, 8)
    assert rerank["degraded"] is None
    assert rerank["calibrator"]["event"] == "acceptable"
    assert rerank["orm"] == "fake@1"
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15}
    assert response.headers["x-winnow-decision"] == "accept"
    assert response.headers["x-winnow-probability"] == "0.9000"
    assert "sampling;dur=" in response.headers["server-timing"]
    assert set(rerank["timings_ms"]) == {"route", "first_token", "sampling", "scoring_tail", "total"}


async def test_each_candidate_has_its_own_seed_and_the_tenants_salt(gateway: Any) -> None:
    await gateway.ask(seed=42, rerank={"n": 3})
    bodies = gateway.policy.bodies
    assert {body["seed"] for body in bodies} == {candidate_seed(42, i) for i in range(3)}
    assert len({body["cache_salt"] for body in bodies}) == 1
    assert {body["temperature"] for body in bodies} == {0.8}
    assert all(body["stream"] and body["n"] == 1 for body in bodies)
    assert gateway.scorer.prefilled == ["fake@1"]
    assert gateway.scorer.salts == {bodies[0]["cache_salt"]}


@pytest.mark.parametrize("choice", ["auto", "none"])
async def test_the_reward_model_sees_the_tools_that_the_policy_sees(gateway: Any, choice: str) -> None:
    tools = [{"type": "function", "function": {"name": "refund", "parameters": {"type": "object"}}}]
    await gateway.ask(tools=tools, tool_choice=choice, rerank={"n": 2})
    # The prompt, and two candidates of which the equal texts are scored once.
    assert len(gateway.scorer.tools) >= 2
    assert all(given == (tools if choice == "auto" else None) for given in gateway.scorer.tools)
    gateway.scorer.tools.clear()
    await gateway.ask()
    assert set(gateway.scorer.tools) == {None}


async def test_the_clients_text_cannot_choose_endpoint_or_salt(gateway: Any) -> None:
    response = await gateway.ask(cache_salt="mine")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "unknown_parameter"
    assert response.json()["error"]["param"] == "cache_salt"


async def test_identical_texts_are_scored_once(gateway: Any, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script(["same" if i % 2 else "other"])
    answer = (await gateway.ask(rerank={"n": 8})).json()
    assert len(gateway.scorer.calls) == 2
    assert answer["rerank"]["n_scored"] == 8


async def test_n_returns_the_top_choices_in_order(gateway: Any, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script(["x" * (i + 1)])
    answer = (await gateway.ask(n=3, rerank={"n": 4})).json()
    # Four candidates where the calibrator was fitted on eight: a person decides, so this one is held.
    assert answer["rerank"]["degraded"] == "calibration_mismatch"
    assert answer["rerank"]["decision"] == "review"
    response = await gateway.ask(n=3)
    assert [choice["message"]["content"] for choice in response.json()["choices"]] == ["x" * 12, "x" * 11, "x" * 10]


async def test_a_held_answer_says_that_a_person_will_answer(gateway: Any) -> None:
    gateway.scorer.probability = lambda score: 0.45
    answer = (await gateway.ask(rerank={"return_candidates": True})).json()
    assert answer["rerank"]["decision"] == "review"
    assert answer["rerank"]["review_id"] == f"review-{answer['id'].removeprefix('chatcmpl-')}"
    assert "person" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert all("content" not in candidate for candidate in answer["rerank"]["candidates"])


async def test_the_demo_profile_sends_what_it_would_hold(demo: Any) -> None:
    demo.scorer.probability = lambda score: 0.1
    answer = (await demo.ask()).json()
    assert answer["rerank"]["decision"] == "fallback"
    assert answer["choices"][0]["message"]["content"].startswith("reply")


async def test_a_fallback_can_be_a_greedy_completion(start_gateway: Any, script: Any) -> None:
    async with start_gateway(routes={"billing": {"on_fallback": "greedy"}}) as gateway:
        gateway.scorer.probability = lambda score: 0.0
        gateway.policy.answer = lambda body, i: script(["greedy" if body["temperature"] == 0 else "sampled"])
        answer = (await gateway.ask()).json()
        assert answer["choices"][0]["message"]["content"] == "greedy"
        assert answer["usage"]["completion_tokens"] == 9
        assert answer["rerank"]["n_requested"] == 8


async def test_without_a_calibrator_a_person_decides(gateway: Any) -> None:
    gateway.scorer.calibrator = None
    rerank = (await gateway.ask()).json()["rerank"]
    assert (rerank["decision"], rerank["winner"]["probability"], rerank["calibrator"]) == ("review", None, None)


async def test_default_chat_is_one_greedy_completion(gateway: Any) -> None:
    response = await gateway.ask("hello")
    rerank = response.json()["rerank"]
    assert (rerank["route"], rerank["strategy"], rerank["decision"]) == ("default", "greedy", "passthrough")
    assert rerank["winner"] is None
    assert [body["temperature"] for body in gateway.policy.bodies] == [0.0]
    assert gateway.scorer.calls == []
    assert response.headers["x-winnow-probability"] == "unknown"


async def test_mode_changes_the_strategy(demo: Any) -> None:
    assert (await demo.ask(rerank={"mode": "off"})).json()["rerank"]["strategy"] == "greedy"
    assert (await demo.ask("hello", rerank={"mode": "best_of_n"})).json()["rerank"]["n_scored"] == 8


async def test_a_judged_route_cannot_be_switched_off_unless_the_operator_says_so(gateway: Any) -> None:
    refused = await gateway.ask(rerank={"mode": "off"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "rerank.mode")
    assert gateway.policy.bodies == []
    assert (await gateway.ask("hello", rerank={"mode": "off"})).status_code == 200


async def test_openai_python_streams_the_winner(gateway: Any, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script(["word "] * (i + 1), finish_reason="stop")
    stream = await gateway.openai.chat.completions.create(
        model="winnow",
        messages=[{"role": "user", "content": "I was charged twice"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "word " * 8
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == sum(range(1, 9))
    assert [bool(chunk.choices) for chunk in chunks][-2:] == [True, False], "one chunk without choices: the usage"
    assert chunks[-2].model_extra["rerank"]["winner"]["completion_tokens"] == 8


@pytest.mark.parametrize("text", ["hello", "I was charged twice"])
async def test_every_chunk_has_a_choice_and_usage_is_streamed_only_on_request(gateway: Any, text: str) -> None:
    stream = await gateway.openai.chat.completions.create(
        model="winnow", messages=[{"role": "user", "content": text}], stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    (ending,) = [chunk for chunk in chunks if chunk.choices[0].finish_reason]
    assert ending is chunks[-1]
    assert ending.model_extra is not None
    assert ending.model_extra["rerank"]["route"] == ("default" if text == "hello" else "billing")


async def test_a_waiting_stream_is_kept_alive_by_comments(start_gateway: Any, script: Any) -> None:
    async with start_gateway(keepalive_seconds=0.1) as gateway:
        gateway.policy.answer = lambda body, i: script(["slow"], pause=0.5)
        body = (await gateway.ask(stream=True)).text
    before, _, after = body.partition("data:")
    assert before.count(": winnow is sampling") >= 2
    assert after.rstrip().endswith("[DONE]")


async def test_tool_calls_of_the_winner_come_through(gateway: Any, script: Any) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "refund", "arguments": '{"id": 1}'}}
    gateway.policy.answer = lambda body, i: script([], tool_calls=[call], finish_reason="tool_calls")
    tools = [{"type": "function", "function": {"name": "refund", "parameters": {"type": "object"}}}]
    answer = (await gateway.ask(tools=tools)).json()
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "refund", "arguments": '{"id": 1}'}
    assert answer["choices"][0]["message"]["content"] is None
    assert gateway.scorer.calls[0]["completions"][0]["tool_calls"][0]["function"]["name"] == "refund"
    streamed = (await gateway.ask(tools=tools, stream=True)).text
    first = json.loads(streamed.split("data:")[1])
    assert first["choices"][0]["delta"]["tool_calls"][0]["index"] == 0


async def test_at_the_deadline_the_best_scored_candidate_goes_out_and_the_rest_is_cancelled(
    demo: Any, script: Any
) -> None:
    demo.policy.answer = lambda body, i: script(["quick"]) if i < 2 else script(["slow"] * 50, pause=0.2)
    answer = (await demo.ask(rerank={"budget_ms": 3_000})).json()
    rerank = answer["rerank"]
    assert answer["choices"][0]["message"]["content"] == "quick"
    assert (rerank["stop_reason"], rerank["degraded"], rerank["n_scored"]) == ("deadline", "deadline", 2)
    assert rerank["decision"] == "review", "a calibrator for eight says nothing of two"
    await _until(lambda: demo.policy.cut_off == 6)
    # Tokens of cancelled streams are counted: the policy reports usage with every chunk.
    assert answer["usage"]["completion_tokens"] > 2


async def test_at_the_deadline_an_unscored_candidate_is_better_than_none(demo: Any) -> None:
    demo.scorer.pause = 5
    answer = (await demo.ask(rerank={"budget_ms": 400})).json()
    assert answer["choices"][0]["message"]["content"].startswith("reply")
    assert (answer["rerank"]["degraded"], answer["rerank"]["decision"]) == ("unscored", "review")
    assert answer["rerank"]["winner"]["score"] is None


@pytest.mark.parametrize(("setting", "status"), [("message", 200), ("error", 504)])
async def test_nothing_ready_in_time_is_the_routes_outcome(
    start_gateway: Any, script: Any, setting: str, status: int
) -> None:
    async with start_gateway(routes={"billing": {"on_timeout": setting}}) as gateway:
        gateway.policy.answer = lambda body, i: script(["slow"] * 50, pause=1)
        response = await gateway.ask(rerank={"budget_ms": 200})
        assert response.status_code == status
        if status == 200:
            assert response.json()["rerank"]["decision"] == "fallback"
        else:
            assert response.json()["error"]["code"] == "deadline_missed"
        await _until(lambda: gateway.policy.cut_off == 8)


@pytest.mark.parametrize(
    ("setting", "content"), [("first_candidate", "reply"), ("fallback_message", "I am sorry"), ("error", None)]
)
async def test_a_scorer_that_is_down_is_a_visible_outcome(
    start_gateway: Any, setting: str, content: str | None
) -> None:
    async with start_gateway(routes={"billing": {"on_scorer_failure": setting}}) as gateway:
        gateway.scorer.down = True
        response = await gateway.ask()
        if content is None:
            assert response.status_code == 503
            assert response.json()["error"]["code"] == "scorer_unavailable"
            return
        rerank = response.json()["rerank"]
        assert (rerank["degraded"], rerank["decision"], rerank["stop_reason"]) == (
            "scorer_failed",
            "fallback",
            "scorer_failed",
        )
        assert response.json()["choices"][0]["message"]["content"].startswith(content)


@pytest.mark.parametrize(("late", "degraded", "decision"), [("7", "deadline", "review"), ("", "unscored", "review")])
async def test_a_scorer_without_time_is_a_deadline_and_no_failure(
    demo: Any, script: Any, late: str, degraded: str, decision: str
) -> None:
    demo.policy.answer = lambda body, i: script([f"reply {i}"], pause=0.3 if i == 7 else 0)
    demo.scorer.late = lambda text: late in text
    rerank = (await demo.ask()).json()["rerank"]
    assert (rerank["degraded"], rerank["stop_reason"], rerank["decision"]) == (degraded, "deadline", decision)
    assert rerank["n_scored"] == (7 if late else 0)


async def test_one_stream_that_breaks_off_leaves_the_others(demo: Any, script: Any) -> None:
    demo.policy.answer = lambda body, i: script(["whole"]) if i else script(["broken", "off"], die_after=1)
    rerank = (await demo.ask()).json()["rerank"]
    assert (rerank["n_completed"], rerank["n_scored"], rerank["stop_reason"]) == (7, 7, "candidates_failed")


async def test_a_policy_that_is_gone_is_a_502_that_says_so(gateway: Any) -> None:
    gateway.policy.answer = lambda body, i: JSONResponse({"error": {"message": "engine dead"}}, 500)
    response = await gateway.ask()
    assert response.status_code == 502
    assert response.json()["error"]["message"] == "the policy answered with status 500"


async def test_streams_that_break_off_one_after_the_other_are_a_502_too(demo: Any, script: Any) -> None:
    demo.policy.answer = lambda body, i: script(["broken"] * 9, pause=0.02, die_after=1 + i % 3)
    response = await demo.ask()
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "policy_unavailable"


async def test_what_the_policy_refuses_is_the_clients_400(gateway: Any) -> None:
    message = "This model's maximum context length is 4096 tokens"
    gateway.policy.answer = lambda body, i: JSONResponse({"error": {"message": message}}, 400)
    for text in ("I was charged twice", "hello"):
        response = await gateway.ask(text)
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
        assert "of 4096 tokens" in error["message"]


async def test_an_error_in_mid_stream_is_an_event(gateway: Any, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script(["half", "way"], die_after=1)
    text = (await gateway.ask("hello", stream=True)).text
    last = text.strip().split("data: ")[-1]
    assert json.loads(last)["error"]["code"] == "policy_unavailable"
    assert "[DONE]" not in text
    with pytest.raises(openai.APIError):
        stream = await gateway.openai.chat.completions.create(
            model="winnow", messages=[{"role": "user", "content": "hello"}], stream=True
        )
        _ = [chunk async for chunk in stream]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_every_stream(gateway: Any, script: Any, stream: bool) -> None:
    gateway.policy.answer = lambda body, i: script(["on and on"] * 100, pause=0.1)
    asking = asyncio.create_task(gateway.ask(stream=stream))
    await _until(lambda: len(gateway.policy.bodies) == 8)
    await asyncio.sleep(0.2)
    asking.cancel()
    await _until(lambda: gateway.policy.cut_off == 8)
    assert gateway.policy.finished == 0


async def test_the_rerank_object_can_be_fetched_later_by_its_tenant_only(gateway: Any) -> None:
    from service.keys.key_file import add_key

    answer = (await gateway.ask()).json()
    mine = await gateway.http.get(
        f"{gateway.url}/v1/rerank/{answer['id']}", headers={"Authorization": f"Bearer {gateway.key}"}
    )
    assert mine.json() == {"id": answer["id"], "rerank": answer["rerank"]}
    other = add_key(gateway.keys_file, "other", "client")
    theirs = await gateway.http.get(
        f"{gateway.url}/v1/rerank/{answer['id']}", headers={"Authorization": f"Bearer {other}"}
    )
    assert theirs.status_code == 404


async def _until(condition: Any, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)
