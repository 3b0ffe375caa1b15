"""A billing question through real vLLM, the real reward model and the gateway, with the clients people use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from langchain_openai import ChatOpenAI

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

BILLING: list[Any] = [{"role": "user", "content": "I was charged twice for my subscription. What should I do?"}]
CHAT: list[Any] = [{"role": "user", "content": "Tell me about the sea in one sentence."}]


@pytest.fixture
def client(stack: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0)


def test_a_billing_question_is_the_best_of_eight_with_a_probability(stack: Any, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="winnow", messages=BILLING, max_tokens=48, seed=11, extra_body={"rerank": {"return_candidates": True}}
    )
    rerank = answer.model_extra["rerank"]  # type: ignore[index]
    assert (rerank["route"], rerank["strategy"]) == ("billing", "best_of_n")
    assert (rerank["n_requested"], rerank["n_completed"], rerank["n_scored"]) == (8, 8, 8)
    assert rerank["orm"] == "winnow-orm@3"
    assert rerank["calibrator"]["event"] == "acceptable"
    assert rerank["calibrator"]["labels"] >= 150
    winner = rerank["candidates"][rerank["winner"]["index"]]
    assert answer.choices[0].message.content == winner["content"]
    assert 0 < winner["probability"] < 1
    ended = [c for c in rerank["candidates"] if c["finish_reason"] == "stop"] or rerank["candidates"]
    assert winner["score"] == max(candidate["score"] for candidate in ended)
    assert len({candidate["content"] for candidate in rerank["candidates"]}) > 1, "each candidate has its own seed"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == sum(c["completion_tokens"] for c in rerank["candidates"])

    # The scorer, asked directly, says the same of the same texts (bf16, another batch).
    scored = httpx.post(
        f"{stack.scorer_url}/v1/score",
        json={"prompt": BILLING, "completions": [c["content"] for c in rerank["candidates"]]},
        timeout=60,
    ).json()
    for candidate, result in zip(rerank["candidates"], scored["results"], strict=True):
        assert result["score"] == pytest.approx(candidate["score"], abs=0.1)


def test_other_chat_is_one_greedy_completion_streamed_as_it_decodes(client: openai.OpenAI) -> None:
    arrivals: list[float] = []
    rerank, usage, text = None, None, ""
    stream = client.chat.completions.create(
        model="winnow", messages=CHAT, max_tokens=24, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            arrivals.append(time.monotonic())
            text += chunk.choices[0].delta.content
        rerank = (chunk.model_extra or {}).get("rerank", rerank)
        usage = chunk.usage or usage
    assert rerank is not None
    assert (rerank["route"], rerank["decision"]) == ("default", "passthrough")
    assert len(arrivals) > 5
    assert arrivals[-1] - arrivals[0] > 0.05, "tokens came one by one"
    whole = client.chat.completions.create(model="winnow", messages=CHAT, max_tokens=24)
    assert whole.choices[0].message.content is not None
    assert whole.choices[0].message.content[:20] == text[:20], "greedy decoding is the same streamed or not"
    assert usage is not None
    assert usage.completion_tokens <= 24


def test_a_streamed_billing_answer_keeps_the_line_alive_and_ends_with_rerank(stack: Any) -> None:
    body = {"model": "winnow", "messages": BILLING, "max_tokens": 32, "stream": True}
    headers = {"Authorization": f"Bearer {stack.key}"}
    with httpx.stream("POST", f"{stack.url}/v1/chat/completions", json=body, headers=headers, timeout=120) as response:
        assert response.headers["x-winnow-route"] == "billing"
        assert "x-request-id" in response.headers
        lines = [line for line in response.iter_lines() if line.startswith("data:")]
    assert lines[-1] == "data: [DONE]"
    last = json.loads(lines[-2][5:])
    assert last["rerank"]["n_scored"] == 8
    stack_lookup = httpx.get(f"{stack.url}/v1/rerank/{last['id']}", headers=headers)
    assert stack_lookup.json()["rerank"]["winner"] == last["rerank"]["winner"]


def test_langchain_works_by_base_url(stack: Any) -> None:
    model = ChatOpenAI(model="winnow", base_url=f"{stack.url}/v1", api_key=stack.key, max_tokens=16)
    assert model.invoke("I do not recognise a payment on my card.").content
    assert "".join(str(chunk.content) for chunk in model.stream("Name a colour.")).strip()


def test_litellm_works_by_base_url(stack: Any, litellm_python: str) -> None:
    script = textwrap.dedent(
        """
        import sys, litellm
        url, key = sys.argv[1:]
        ask = dict(model="openai/winnow", api_base=url + "/v1", api_key=key, max_tokens=16)
        ask["messages"] = [{"role": "user", "content": "My bill is wrong, why was I charged a late fee?"}]
        whole = litellm.completion(**ask)
        assert whole.choices[0].message.content, whole
        parts = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(stream=True, **ask)]
        assert "".join(parts), parts
        print("ok", litellm.__name__)
        """
    )
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [litellm_python, "-c", script, stack.url, stack.key],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ok litellm" in done.stdout


def test_a_prompt_longer_than_the_context_is_the_clients_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="winnow", messages=[{"role": "user", "content": "I was charged twice. " * 3000}], max_tokens=8
        )
    assert "context" in str(refused.value) or "length" in str(refused.value)


def test_a_burst_of_seeded_requests_does_not_kill_the_policy(stack: Any) -> None:
    """vLLM's CPU worker dies when it splits a seeded prompt; the launcher's options keep it from doing so."""
    from concurrent.futures import ThreadPoolExecutor

    headers = {"Authorization": f"Bearer {stack.key}"}
    body = {"model": "winnow", "messages": [{"role": "user", "content": "My card was stolen. " * 60}], "max_tokens": 2}

    def ask(_: int) -> int:
        return httpx.post(f"{stack.url}/v1/chat/completions", json=body, headers=headers, timeout=240).status_code

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == [200] * 6
    assert httpx.get(f"{stack.url}/readyz").status_code == 200


# Last: it takes the policy away for a while.
def test_zz_a_policy_that_dies_turns_readiness_red_and_comes_back(stack: Any, policy_pids: list[int]) -> None:
    assert policy_pids, "the policy runs"
    for pid in policy_pids:
        os.kill(pid, signal.SIGKILL)
    headers = {"Authorization": f"Bearer {stack.key}"}
    body = {"model": "winnow", "messages": BILLING, "max_tokens": 8}
    # A killed process of some gigabytes takes a moment to go; it comes back after half a minute or so.
    assert _until(lambda: httpx.get(f"{stack.url}/readyz").status_code == 503, 20)
    refused = httpx.post(f"{stack.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert refused.status_code == 502
    assert refused.json()["error"]["code"] == "policy_unavailable"
    assert httpx.get(f"{stack.url}/readyz").json()["upstreams"]["policy:default"] == "down"
    assert _until(lambda: httpx.get(f"{stack.url}/readyz").status_code == 200, 240), "the supervisor restarts it"
    again = httpx.post(f"{stack.url}/v1/chat/completions", json=body, headers=headers, timeout=120)
    assert again.status_code == 200


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.5)
    return False
