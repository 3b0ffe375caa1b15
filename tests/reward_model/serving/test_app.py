"""What the app does when something is wrong: with the request, with the load, with the model."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.text.formatting import Completion, parse_messages

BODY: dict[str, Any] = {"prompt": [{"role": "user", "content": "Refund my bill."}], "completions": ["ok"]}


async def outcomes(client: httpx.AsyncClient) -> dict[str, float]:
    families = text_string_to_metric_families((await client.get("/metrics")).text)
    (requests,) = (family for family in families if family.name == "winnow_scorer_requests")
    return {s.labels["outcome"]: s.value for s in requests.samples if s.name.endswith("_total")}


async def entered(module: Any) -> None:
    assert await asyncio.to_thread(module.entered.wait, 10)


def call(function: Any) -> dict[str, Any]:
    return BODY | {"completions": [{"content": None, "tool_calls": [{"function": function}]}]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (call("refund"), "`function` must be an object"),
        (BODY | {"completions": [{"index": 1, "content": "a"}, "b"]}, "the same index"),
        (BODY | {"prompt": [{"role": "user", "content": [{"type": "image_url"}]}]}, "only text parts"),
        (BODY | {"cache_salt": "x" * 129}, "cache_salt: String should have at most 128 characters"),
        ([], "the body: "),
    ],
)
async def test_bad_bodies_are_a_400_that_says_why(scorer: httpx.AsyncClient, body: Any, said: str) -> None:
    reply = await scorer.post("/v1/score", json=body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
    assert said in reply.json()["error"]["message"]


async def test_deep_json_is_a_400_whether_it_can_be_parsed_or_not(scorer: httpx.AsyncClient) -> None:
    outer = json.dumps(call({"name": "refund", "arguments": "HERE"}))
    for depth, said in ((1_010, "nested too deeply"), (5_000, "not JSON")):
        body = outer.replace('"HERE"', "[" * depth + "]" * depth)
        reply = await scorer.post("/v1/score", content=body)
        assert (reply.status_code, said in reply.json()["error"]["message"]) == (400, True), reply.text


async def test_deep_tool_calls_in_a_prompt_are_read_or_refused(scorer: httpx.AsyncClient) -> None:
    turn = {"role": "assistant", "tool_calls": [{"function": {"name": "refund", "arguments": "HERE"}}]}
    outer = json.dumps(BODY | {"prompt": [*BODY["prompt"], turn, {"role": "user", "content": "Thanks"}]})
    for depth, status in ((400, 200), (1_010, 400)):
        body = outer.replace('"HERE"', "[" * depth + "]" * depth)
        reply = await scorer.post("/v1/score", content=body)
        assert reply.status_code == status, reply.text


async def test_broken_json_in_tool_arguments_is_scored_as_the_text_it_is(scorer: httpx.AsyncClient) -> None:
    reply = await scorer.post("/v1/score", json=call({"name": "refund", "arguments": '{"amount": '}))
    assert reply.status_code == 200


async def test_paths_and_methods_that_are_not_there_answer_in_the_same_shape(scorer: httpx.AsyncClient) -> None:
    missing, wrong = await scorer.get("/v2/score"), await scorer.get("/v1/score")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert await outcomes(scorer) == {"not_found": 1, "method_not_allowed": 1}


async def test_a_growing_completion_is_scored_without_probability(scorer: httpx.AsyncClient) -> None:
    whole = (await scorer.post("/v1/score", json=BODY)).json()["results"][0]
    part = (await scorer.post("/v1/score", json=BODY | {"partial": True})).json()["results"][0]
    assert part["score"] == pytest.approx(whole["score"], abs=1e-4)
    assert part["probability"] is None
    assert whole["probability"] is not None


async def test_a_long_completion_is_cut_and_the_cut_is_said(scorer: httpx.AsyncClient, model: LoadedModel) -> None:
    text = "bill " * 200
    usage = (await scorer.post("/v1/score", json=BODY | {"completions": [text, text]})).json()["usage"]
    tokens = len(model.formatter.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1
    assert usage["completion_tokens"] == 2 * 64
    assert usage["truncated_tokens"] == 2 * (tokens - 64)


async def test_a_deadline_is_a_504_while_the_model_is_busy(faulty: LoadedModel, serving: Any) -> None:
    module: Any = faulty.module
    async with serving(faulty) as client:
        module.gate.clear()
        first = asyncio.create_task(client.post("/v1/score", json=BODY))
        await entered(module)
        late = await client.post("/v1/score", json=BODY | {"deadline_ms": 30})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        module.gate.set()
        assert (await first).status_code == 200


async def test_overload_is_a_503_with_retry_after(faulty: LoadedModel, serving: Any) -> None:
    module: Any = faulty.module
    async with serving(faulty, max_waiting=2) as client:
        module.gate.clear()
        first = asyncio.create_task(client.post("/v1/score", json=BODY | {"completions": ["a", "b"]}))
        await entered(module)
        refused = await client.post("/v1/score", json=BODY)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        never = await client.post("/get_reward", json={"query": ["a", "b", "c"]})
        assert (never.status_code, never.json()["error"]["type"]) == (400, "invalid_request_error")
        module.gate.set()
        assert (await first).status_code == 200
        assert (await client.post("/v1/score", json=BODY)).status_code == 200
        assert await outcomes(client) == {"ok": 2, "overloaded": 1, "invalid_request_error": 1}


async def test_a_client_that_leaves_is_not_scored(faulty: LoadedModel, serving: Any) -> None:
    module: Any = faulty.module
    async with serving(faulty) as client:
        module.gate.clear()
        first = asyncio.create_task(client.post("/v1/score", json=BODY))
        await entered(module)
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/v1/score", json=BODY | {"completions": ["x"]}, timeout=0.2)
        for _ in range(200):
            if "client_left" in await outcomes(client):
                break
            await asyncio.sleep(0.01)
        module.gate.set()
        assert (await first).status_code == 200
        metrics = (await client.get("/metrics")).text
        assert "winnow_scorer_batch_size_sum 1.0" in metrics
        assert (await outcomes(client))["client_left"] == 1


async def test_a_failed_pass_is_a_500_without_its_details_and_the_next_request_works(
    faulty: LoadedModel, serving: Any
) -> None:
    module: Any = faulty.module
    async with serving(faulty) as client:
        module.error = RuntimeError("secret path /models/7")
        failed = await client.post("/v1/score", json=BODY)
        assert (failed.status_code, failed.json()["error"]["type"]) == (500, "server_error")
        assert "secret" not in failed.text
        module.error = None
        assert (await client.get("/readyz")).status_code == 200, "it was that pass alone"
        assert (await client.post("/v1/score", json=BODY)).status_code == 200


async def test_a_sticky_cuda_error_turns_readiness_red_until_a_test_pass_succeeds(
    faulty: LoadedModel, serving: Any
) -> None:
    module: Any = faulty.module
    async with serving(faulty) as client:
        module.error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        assert (await client.get("/readyz")).status_code == 200, "nothing has failed yet"
        assert (await client.post("/v1/score", json=BODY)).status_code == 500
        for path in ("/readyz", "/health"):
            red = await client.get(path)
            assert (red.status_code, red.json()) == (503, {"status": "forward passes fail"})
        assert (await client.get("/v1/models")).json()["data"][0]["state"] == "failed"
        assert (await client.get("/livez")).status_code == 200
        module.error = None
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/v1/models")).json()["data"][0]["state"] == "ready"


async def test_an_error_that_stays_asks_for_a_restart(faulty: LoadedModel, serving: Any) -> None:
    module: Any = faulty.module
    async with serving(faulty, restart_seconds=0) as client:
        module.error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        assert (await client.post("/v1/score", json=BODY)).status_code == 500
        assert (await client.get("/livez")).status_code == 200, "no test pass has failed yet"
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/livez")).status_code == 503
        module.error = None
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/livez")).status_code == 200


async def test_a_long_pass_is_no_failed_one(faulty: LoadedModel, serving: Any) -> None:
    module: Any = faulty.module
    async with serving(faulty) as client:
        module.gate.clear()
        first = asyncio.create_task(client.post("/v1/score", json=BODY))
        await entered(module)
        assert (await client.get("/readyz", timeout=1)).status_code == 200
        assert (await client.get("/v1/models")).json()["data"][0]["state"] == "ready"
        module.gate.set()
        assert (await first).status_code == 200


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
async def test_a_batch_that_ran_out_of_memory_is_halved(faulty: LoadedModel, serving: Any, error: Exception) -> None:
    module: Any = faulty.module
    replies = ["a", "b c", "d e f", "bill " * 30]
    alone = faulty.score(
        [
            [*p, *c]
            for p, c in faulty.formatter.sequences(
                parse_messages(BODY["prompt"]), [Completion(content=r) for r in replies]
            )
        ]
    )
    rows: list[int] = []

    def small(module: Any, given: tuple[torch.Tensor, ...]) -> None:
        rows.append(len(given[0]))
        if len(given[0]) > 1 or given[0].shape[1] > limit:
            raise error

    module.register_forward_pre_hook(small)
    async with serving(faulty) as client:
        limit = 1_000
        found = (await client.post("/v1/score", json=BODY | {"completions": replies})).json()
        assert [result["score"] for result in found["results"]] == pytest.approx(alone.tolist(), abs=1e-4)
        assert rows == [4, 2, 1, 1, 2, 1, 1]
        assert (await client.get("/readyz")).status_code == 200
        # Only what is too long by itself fails.
        limit = 60
        asked = [client.post("/v1/score", json=BODY | {"completions": [reply]}) for reply in (replies[3], replies[0])]
        long, short = await asyncio.gather(*asked)
        assert (long.status_code, short.status_code) == (500, 200)
        assert "does not fit into the memory" in long.json()["error"]["message"]


async def test_a_dead_worker_turns_readiness_red_and_asks_for_a_restart(model: LoadedModel, serving: Any) -> None:
    server = serving(model)
    async with server as client:
        server.app.state.scorer.engine.batcher._owner.cancel()
        await asyncio.sleep(0)
        for path in ("/readyz", "/health"):
            assert (await client.get(path)).status_code == 503
        assert (await client.get("/livez")).status_code == 503
        assert (await client.get("/v1/models")).json()["data"][0]["state"] == "failed"
        dead = await client.post("/v1/score", json=BODY)
        assert (dead.status_code, "has died" in dead.text) == (500, True)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics"])
async def test_head_has_the_status_of_get(model: LoadedModel, serving: Any, path: str) -> None:
    server = serving(model)
    async with server as client:
        assert (await client.head(path)).status_code == 200
        server.app.state.scorer.engine.batcher._owner.cancel()
        await asyncio.sleep(0)
        assert (await client.head(path)).status_code == (await client.get(path)).status_code


async def test_requests_of_several_clients_share_a_batch(faulty: LoadedModel, serving: Any) -> None:
    module: Any = faulty.module
    server = serving(faulty)
    async with server as client:
        module.gate.clear()
        first = asyncio.create_task(client.post("/v1/score", json=BODY))
        await entered(module)
        bodies = [BODY | {"completions": [text]} for text in ("a", "b c")]
        rest = [asyncio.create_task(client.post("/v1/score", json=body)) for body in bodies]
        while len(server.app.state.scorer.engine.batcher._waiting) < 2:
            await asyncio.sleep(0.005)
        module.gate.set()
        assert [r.status_code for r in await asyncio.gather(first, *rest)] == [200, 200, 200]
        assert "winnow_scorer_batch_size_count 2.0" in (await client.get("/metrics")).text


async def test_tokenised_prompts_are_kept_up_to_a_number(model: LoadedModel, serving: Any) -> None:
    server = serving(model, prompt_cache=2)
    async with server as client:
        kept = server.app.state.scorer.engine._prompts
        for text in ("a", "b", "a", "c"):
            reply = await client.post("/v1/prefill", json={"prompt": [{"role": "user", "content": text}]})
            assert reply.status_code == 200
        assert len(kept) == 2
        a, c = ([{"role": "user", "content": text}] for text in ("a", "c"))
        before = list(kept)
        await client.post("/v1/score", json={"prompt": c, "completions": ["x"]})
        await client.post("/v1/score", json={"prompt": a, "completions": ["x"]})
        assert set(kept) == set(before), "both were there: b, used longest ago, had made room"


async def test_salts_separate_what_is_cached(scorer: httpx.AsyncClient) -> None:
    async def reused() -> float:
        lines = (await scorer.get("/metrics")).text.splitlines()
        return float(next(line for line in lines if line.startswith("winnow_scorer_prefix_tokens_total")).split()[1])

    prefill = {"prompt": BODY["prompt"], "cache_salt": "acme"}
    tokens = (await scorer.post("/v1/prefill", json=prefill)).json()["prompt_tokens"]
    for body, expected in ((BODY, 0), (BODY | {"cache_salt": "other"}, 0), (BODY | {"cache_salt": "acme"}, tokens)):
        assert (await scorer.post("/v1/score", json=body)).status_code == 200
        assert await reused() == expected
