"""The scorer alone, at rising rates: from a request's last token to its last score, with a random model of some shape.

A request reads a prompt ahead, and its eight completions end one after the other, as a policy's would. Everything goes
over HTTP to `winnow scorer`. Random weights cost what trained ones cost.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from loadtest.bench.machine import measure
from loadtest.bench.processes import BenchError, free_port, served
from loadtest.workload import load_prompts

CANDIDATES, BUDGET_MS = 8, 120.0
# Of Mistral-7B and SmolLM2-135M, but for the vocabulary.
SHAPES: dict[str, dict[str, Any]] = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
}
_SHORTEST = 64


@dataclass(frozen=True)
class ScorerSetup:
    """Rates in requests a second, seconds at each, words of a prompt, of a completion at most, and ms a word takes."""

    shape: str
    device: str
    rates: Sequence[float]
    duration_s: float
    prompt_words: int
    completion_words: int
    word_ms: float


@dataclass
class Load:
    """What was measured at one rate; times in ms from a request's last token to its last score."""

    rate: float
    tails_ms: list[float] = field(default_factory=list)
    failed: int = 0
    flops: float = 0.0
    elapsed_s: float = 0.0


def run(setup: ScorerSetup, folder: Path, logs: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure; the checkpoint is made in `folder`. Raises BenchError when the scorer does not start."""
    config = _checkpoint(setup, folder, say)
    machine = measure(setup.device)
    port = free_port()
    url, command = f"http://127.0.0.1:{port}", [sys.executable, "-m", "service", "scorer", "--model", str(folder)]
    with ExitStack() as stack:
        command += ["--device", setup.device, "--port", str(port)]
        environment = {"WINNOW_SCORER_PREFIX_CACHE_MB": "8000", "WINNOW_SCORER_DTYPE": "bf16"}
        stack.enter_context(served("scorer", command, url, "/readyz", logs / "scorer.log", environment))
        loads = asyncio.run(_loads(setup, url, config, say))
    rate = machine.square_gflops["bf16"] * 1e9
    return {
        "setup": asdict(setup),
        "machine": asdict(machine),
        "loads": [
            {
                "rate": load.rate,
                "requests": len(load.tails_ms) + load.failed,
                "failed": load.failed,
                **{f"p{q}_ms": float(np.percentile(load.tails_ms, q)) for q in (50, 95, 99) if load.tails_ms},
                "roofline_share": load.flops / load.elapsed_s / rate,
            }
            for load in loads
        ],
    }


def _checkpoint(setup: ScorerSetup, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """A one-label classifier of the shape, with the bundled policy's tokeniser."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    done = subprocess.run([sys.executable, "-m", "reward_model.model.base_model"], capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"the bundled tokeniser cannot be prepared: {done.stderr.strip()}")
    tokenizer: Any = AutoTokenizer.from_pretrained(json.loads(done.stdout)["path"])
    config = LlamaConfig(
        **SHAPES[setup.shape] | {"num_labels": 1},
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
    )
    if not (folder / "config.json").exists():
        say(f"making a random checkpoint of shape {setup.shape} in {folder}")
        before = torch.get_default_dtype()
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(setup.device):
                model = LlamaForSequenceClassification(config)  # type: ignore[no-untyped-call]
        finally:
            torch.set_default_dtype(before)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del model
        if setup.device.startswith("cuda"):
            torch.cuda.empty_cache()
    found: dict[str, Any] = config.to_dict()
    return found


async def _loads(setup: ScorerSetup, url: str, config: dict[str, Any], say: Callable[[str], None]) -> list[Load]:
    texts = [text for kind in load_prompts(None).values() for text in kind]
    words = sorted({word for text in texts for word in text.split() if word.isalpha()})
    loads = []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        # The first ones meet a cold device.
        await _load(setup, Load(setup.rates[0]), session, url, config, random.Random(-1), words)
        for number, rate in enumerate(setup.rates):
            load = Load(rate)
            await _load(setup, load, session, url, config, random.Random(number), words)
            loads.append(load)
            p95 = float(np.percentile(load.tails_ms, 95)) if load.tails_ms else float("inf")
            say(f"{rate:g} a second: p95 of the tail {p95:.0f} ms, {load.failed} failed")
    return loads


async def _load(
    setup: ScorerSetup,
    load: Load,
    session: aiohttp.ClientSession,
    url: str,
    config: dict[str, Any],
    chance: random.Random,
    words: Sequence[str],
) -> None:
    began = time.perf_counter()
    at, requests = 0.0, []
    while (at := at + chance.expovariate(load.rate)) < setup.duration_s:
        await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
        prompt = " ".join(chance.choices(words, k=setup.prompt_words))
        completions = [
            " ".join(
                chance.choices(words, k=chance.randint(min(_SHORTEST, setup.completion_words), setup.completion_words))
            )
            for _ in range(CANDIDATES)
        ]
        requests.append(asyncio.create_task(_request(setup, load, session, url, config, prompt, completions)))
    await asyncio.gather(*requests)
    load.elapsed_s = time.perf_counter() - began


async def _request(
    setup: ScorerSetup,
    load: Load,
    session: aiohttp.ClientSession,
    url: str,
    config: dict[str, Any],
    prompt: str,
    completions: Sequence[str],
) -> None:
    messages, began = [{"role": "user", "content": prompt}], time.perf_counter()

    async def score(completion: str) -> dict[str, int]:
        ends = began + len(completion.split()) * setup.word_ms / 1e3
        await asyncio.sleep(max(0.0, ends - time.perf_counter()))
        body = {"prompt": messages, "completions": [completion]}
        async with session.post(f"{url}/v1/score", json=body, raise_for_status=True) as response:
            usage: dict[str, int] = (await response.json())["usage"]
            return usage

    async with session.post(f"{url}/v1/prefill", json={"prompt": messages}):
        pass
    try:
        usages = await asyncio.gather(*(score(completion) for completion in completions))
    except aiohttp.ClientError:
        load.failed += 1
        return
    last = began + max(len(completion.split()) for completion in completions) * setup.word_ms / 1e3
    load.tails_ms.append(1e3 * (time.perf_counter() - last))
    load.flops += _flops(config, usages[0]["prompt_tokens"], [usage["completion_tokens"] for usage in usages])


def _flops(config: dict[str, Any], prompt: int, completions: Sequence[int]) -> float:
    """Operations that a request needs with its prompt computed once: products of the layers, and attention."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    keys = config["num_key_value_heads"] * (hidden // heads)
    weights = hidden * (2 * hidden + 2 * keys + 3 * config["intermediate_size"])
    pairs = prompt**2 / 2 + sum(own * prompt + own**2 / 2 for own in completions)
    return float(config["num_hidden_layers"] * (2 * weights * (prompt + sum(completions)) + 4 * hidden * pairs))


def table(found: dict[str, Any]) -> str:
    """Markdown: a row for each rate."""
    rows = ["| requests a second | p50 | p95 | p99 | within 120 ms at p95 | failed | share of the device's bf16 rate |"]
    rows.append("|---|---|---|---|---|---|---|")
    for load in found["loads"]:
        times = " | ".join(f"{load[name]:.0f} ms" if name in load else "" for name in ("p50_ms", "p95_ms", "p99_ms"))
        met = "yes" if load.get("p95_ms", np.inf) <= BUDGET_MS else "no"
        rows.append(f"| {load['rate']:g} | {times} | {met} | {load['failed']} | {load['roofline_share']:.2f} |")
    return "\n".join(rows)
