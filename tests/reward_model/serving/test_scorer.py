"""The scorer over a real uvicorn, against plain transformers on the same weights."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from reward_model.checkpoint.loaded_model import LoadedModel

PROMPT = [{"role": "user", "content": "My card was charged twice, please refund my bill."}]
REPLIES = [
    "Please.",
    "The card was charged; a refund is on its way to your card, please wait.",
    "bill " * 40,
    "ok",
    "🙂",
]


def reference(model: LoadedModel, base: Path, reply: str) -> float:
    """One sequence, unpadded, through the backbone and head by hand."""
    tokenizer = model.formatter.tokenizer
    rendered = tokenizer.apply_chat_template(PROMPT, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    ids += tokenizer(reply, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    module: Any = model.module
    with torch.inference_mode():
        hidden = module.backbone(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state
        return float(module.head(hidden[0, -1].float()))


async def test_scores_are_those_of_a_plain_forward_pass_whatever_the_batch(
    scorer: httpx.AsyncClient, model: LoadedModel, base: Path
) -> None:
    expected = [reference(model, base, reply) for reply in REPLIES]
    assert max(expected) - min(expected) > 0.1, "the replies differ"
    together = (await scorer.post("/v1/score", json={"prompt": PROMPT, "completions": REPLIES})).json()
    assert [r["score"] for r in together["results"]] == pytest.approx(expected, abs=1e-3)
    alone = await asyncio.gather(
        *(scorer.post("/v1/score", json={"prompt": PROMPT, "completions": [reply]}) for reply in REPLIES)
    )
    assert [r.json()["results"][0]["score"] for r in alone] == pytest.approx(expected, abs=1e-3)


async def test_a_probability_is_platts_of_the_score_and_says_what_it_is(scorer: httpx.AsyncClient) -> None:
    reply = (await scorer.post("/v1/score", json={"prompt": PROMPT, "completions": REPLIES})).json()
    for result in reply["results"]:
        assert result["probability"] == pytest.approx(1 / (1 + math.exp(-(2 * result["score"] - 1))))
        assert result["disagreement"] is None
    assert reply["orm"] == "tiny@1"
    assert reply["calibrator"]["id"] == "tiny@1/platt"
    assert reply["calibrator"]["labels"] == 200
    assert reply["calibrator"]["selection"] == {"n": 8, "stopping_rule": "all_scored"}


async def test_indices_come_back_and_tool_calls_count(scorer: httpx.AsyncClient) -> None:
    def call(arguments: str) -> list[dict[str, Any]]:
        return [{"function": {"name": "refund", "arguments": arguments}}]

    completions = [
        {"index": 7, "content": None, "tool_calls": call('{"a": 1, "b": 2}')},
        {"index": 3, "content": None, "tool_calls": call('{"b":2,"a":1}')},
        {"index": 5, "content": None, "tool_calls": call('{"a": 2}')},
    ]
    results = (await scorer.post("/v1/score", json={"prompt": PROMPT, "completions": completions})).json()["results"]
    assert [r["index"] for r in results] == [7, 3, 5]
    assert results[0]["score"] == results[1]["score"] != results[2]["score"]


async def test_a_long_prompt_is_cut_and_the_cut_is_said(scorer: httpx.AsyncClient) -> None:
    long = [{"role": "user", "content": "bill " * 500}]
    usage = (await scorer.post("/v1/score", json={"prompt": long, "completions": ["ok"]})).json()["usage"]
    assert usage["prompt_tokens"] == 128
    assert usage["truncated_tokens"] > 100
    prefilled = await scorer.post("/v1/prefill", json={"prompt": long})
    assert prefilled.json() == {"orm": "tiny@1", "prompt_tokens": 128}


async def test_vllms_classify_gives_sigmoid_or_raw_score(scorer: httpx.AsyncClient, model: LoadedModel) -> None:
    raw = (await scorer.post("/v1/score", json={"prompt": PROMPT, "completions": ["ok"]})).json()["results"][0]["score"]
    rendered = model.formatter.tokenizer.apply_chat_template(
        [*PROMPT, {"role": "assistant", "content": "ok"}], tokenize=False
    )
    for body in ({"input": rendered}, {"messages": [*PROMPT, {"role": "assistant", "content": "ok"}]}):
        activated = (await scorer.post("/classify", json=body)).json()
        assert activated["data"][0]["probs"] == pytest.approx([1 / (1 + math.exp(-raw))], abs=1e-3)
        plain = (await scorer.post("/classify", json=body | {"use_activation": False})).json()
        assert plain["data"][0]["probs"] == pytest.approx([raw], abs=1e-3)
        assert plain["data"][0]["num_classes"] == 1


async def test_openrlhfs_get_reward_scores_rendered_texts(scorer: httpx.AsyncClient, model: LoadedModel) -> None:
    results = (await scorer.post("/v1/score", json={"prompt": PROMPT, "completions": REPLIES[:2]})).json()["results"]
    tokenizer = model.formatter.tokenizer
    prompt: Any = tokenizer.apply_chat_template(PROMPT, tokenize=False, add_generation_prompt=True)
    query = [prompt + REPLIES[0] + "<|im_end|>", prompt + REPLIES[1]]
    reply = (await scorer.post("/get_reward", json={"query": query, "prompts": [prompt, prompt]})).json()
    assert reply["rewards"] == pytest.approx([r["score"] for r in results], abs=1e-3)
    assert reply["scores"] == reply["rewards"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"prompt": PROMPT, "completions": []}, 400, "completions"),
        ({"prompt": [], "completions": ["x"]}, 400, "prompt"),
        ({"prompt": [{"role": "wizard"}], "completions": ["x"]}, 400, "role"),
        ({"prompt": PROMPT, "completions": ["x"] * 65}, 400, "65"),
        ({"prompt": PROMPT, "completions": ["x"], "orm": "tiny@0"}, 409, "tiny@1"),
        ({"prompt": PROMPT, "completions": ["x"], "deadline_ms": -1}, 400, "deadline_ms"),
        ({"prompt": PROMPT, "completions": ["x"], "surprise": 1}, 400, "surprise"),
    ],
)
async def test_bad_requests_are_named(scorer: httpx.AsyncClient, body: Any, status: int, said: str) -> None:
    response = await scorer.post("/v1/score", json=body)
    assert response.status_code == status
    assert said in json.dumps(response.json()["error"])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"prompt": NaN}', b"[" * 2000])
async def test_what_is_not_json_is_a_400(scorer: httpx.AsyncClient, content: bytes) -> None:
    assert (await scorer.post("/v1/score", content=content)).status_code == 400


async def test_limits_and_key(model: LoadedModel, serving: Any) -> None:
    async with serving(model, max_body_bytes=1_000, api_key="secret") as client:
        body = {"prompt": PROMPT, "completions": ["ok"]}
        assert (await client.post("/v1/score", json=body)).status_code == 401
        headers = {"Authorization": "Bearer secret"}
        assert (await client.post("/v1/score", json=body, headers=headers)).status_code == 200
        assert (await client.post("/v1/score", json=body | {"route": "x" * 2_000}, headers=headers)).status_code == 413


async def test_models_health_and_metrics(scorer: httpx.AsyncClient) -> None:
    await scorer.post("/v1/score", json={"prompt": PROMPT, "completions": ["a", "b", "b"]})
    (entry,) = (await scorer.get("/v1/models")).json()["data"]
    assert (entry["id"], entry["state"]) == ("tiny@1", "ready")
    assert "champion" in entry["aliases"]
    assert (await scorer.get("/readyz")).status_code == 200
    families = {f.name: f for f in text_string_to_metric_families((await scorer.get("/metrics")).text)}
    samples = {s.name: s.value for s in families["winnow_scorer_batch_size"].samples}
    assert samples["winnow_scorer_batch_size_sum"] == 2, "the same text twice is computed once"
