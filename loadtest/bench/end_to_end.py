"""A whole best-of-8 request: sampling without any scoring, Winnow with every candidate scored, Winnow adaptive.

One policy, one scorer, two gateways that differ in a setting, one run. In each round every contestant answers the same
prompt once, in random order, nothing else beside it. `again` is the fixed gateway a second time: its ratio is noise.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.bench.paired import ratio
from loadtest.bench.processes import Server, free_port, served
from loadtest.workload import Workload, load_prompts

RAW, FIXED, AGAIN, ADAPTIVE = "vLLM n=8, unscored", "winnow", "again", "winnow, adaptive"
_SETTLE_SECONDS = 0.1


@dataclass(frozen=True)
class Measured:
    """One answer: time, CPU time of every server, completion tokens, and the winner's score and probability."""

    wall_s: float
    cpu_s: float
    tokens: int
    score: float
    probability: float | None
    scoring_tail_ms: float | None = None


@dataclass(frozen=True)
class Stack:
    """The servers of a run."""

    policy: Server
    scorer: Server
    gateways: dict[str, Server]
    key: str

    def cpu_seconds(self) -> float:
        """Of all of them."""
        return sum(server.cpu_seconds() for server in (self.policy, self.scorer, *self.gateways.values()))


def run(
    rounds: int, max_tokens: int, preamble: str, stop: dict[str, Any], logs: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure `rounds` prompts. Raises BenchError when a server does not start."""
    # A rate so high that all arrive at once: only the seeded texts are wanted.
    arrivals = Workload(1000.0, 10.0, rounds + 1, 1.0, 0).arrivals(load_prompts(None))
    prompts = [f"{preamble}\n\n{arrival.prompt}".strip() for arrival in arrivals][: rounds + 1]
    chance, rows = random.Random(0), []
    with ExitStack() as stack:
        servers = _start(stack, stop, logs)
        for number, prompt in enumerate(prompts):
            names = [RAW, FIXED, AGAIN, ADAPTIVE]
            chance.shuffle(names)
            row = {name: _measure(servers, name, prompt, max_tokens, seed=number) for name in names}
            if number:
                rows.append(row)
            say(f"prompt {number} of {rounds}: " + ", ".join(f"{n} {m.wall_s:.2f} s" for n, m in row.items()))
    return _summary(rows) | {"max_tokens": max_tokens, "preamble_characters": len(preamble), "stop": stop}


def _start(stack: ExitStack, stop: dict[str, Any], logs: Path) -> Stack:
    ports = [free_port() for _ in range(4)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    winnow = [sys.executable, "-m", "service"]

    def start(name: str, number: int, arguments: list[str], health: str, environment: dict[str, str]) -> Server:
        command = [*winnow, *arguments, "--port", str(ports[number])]
        log = logs / f"{name.replace(' ', '_').replace(',', '')}.log"
        return stack.enter_context(served(name, command, urls[number], health, log, environment))

    keys = logs / "keys.json"
    made = subprocess.run([*winnow, "key", "bench", "--keys", str(keys)], capture_output=True, text=True, check=True)
    policy = start("policy", 0, ["policy"], "/health", {})
    scorer = start("scorer", 1, ["scorer"], "/readyz", {})
    shared = {"WINNOW_PROFILE": "demo", "WINNOW_KEYS_FILE": str(keys), "WINNOW_POLICY_URL": urls[0]}
    shared |= {"WINNOW_SCORER_URL": urls[1], "WINNOW_REQUESTS_PER_MINUTE": "100000"}
    adaptive = {
        f"WINNOW_ROUTES__{route}__{name.upper()}": json.dumps(value)
        for route in ("BILLING", "FRAUD")
        for name, value in stop.items()
    }
    gateways = {
        FIXED: start(FIXED, 2, ["gateway"], "/readyz", shared),
        ADAPTIVE: start(ADAPTIVE, 3, ["gateway"], "/readyz", shared | adaptive),
    }
    return Stack(policy, scorer, gateways, made.stdout.strip())


def _measure(stack: Stack, name: str, prompt: str, max_tokens: int, seed: int) -> Measured:
    messages = [{"role": "user", "content": prompt}]
    before, began = stack.cpu_seconds(), time.perf_counter()
    if name == RAW:
        body = {
            "model": _model(stack),
            "messages": messages,
            "n": 8,
            "temperature": 0.8,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        answer = _post(stack.policy.url + "/v1/chat/completions", body)
    else:
        body = {"model": "winnow", "messages": messages, "max_tokens": max_tokens, "seed": seed}
        body["rerank"] = {"mode": "best_of_n"}
        gateway = stack.gateways[ADAPTIVE if name == ADAPTIVE else FIXED]
        answer = _post(gateway.url + "/v1/chat/completions", body, stack.key)
    wall = time.perf_counter() - began
    time.sleep(_SETTLE_SECONDS)
    cpu, tokens = stack.cpu_seconds() - before, answer["usage"]["completion_tokens"]
    if name != RAW:
        rerank = answer["rerank"]
        winner = rerank["winner"]
        return Measured(
            wall, cpu, tokens, winner["score"], winner["probability"], rerank["timings_ms"].get("scoring_tail")
        )
    texts = [choice["message"]["content"] or "" for choice in answer["choices"]]
    results = _post(stack.scorer.url + "/v1/score", {"prompt": messages, "completions": texts})["results"]
    best = max(results, key=lambda result: result["score"])
    return Measured(wall, cpu, tokens, best["score"], best["probability"])


def _model(stack: Stack) -> str:
    with urllib.request.urlopen(stack.policy.url + "/v1/models", timeout=10) as response:
        name: str = json.loads(response.read())["data"][0]["id"]
    return name


def _post(url: str, body: dict[str, Any], key: str | None = None) -> Any:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=300) as response:
        return json.loads(response.read())


def _summary(rows: Sequence[dict[str, Measured]]) -> dict[str, Any]:
    def of(name: str, field: str) -> list[float]:
        return [getattr(row[name], field) for row in rows]

    names = [RAW, FIXED, AGAIN, ADAPTIVE]
    deviation = float(np.std(of(FIXED, "score"), ddof=1))
    return {
        "rounds": len(rows),
        "contestants": {
            name: {
                "p50_s": float(np.median(of(name, "wall_s"))),
                "cpu_s": float(np.median(of(name, "cpu_s"))),
                "tokens": float(np.mean(of(name, "tokens"))),
                "winner_score": float(np.mean(of(name, "score"))),
                "scoring_tail_ms": None if name == RAW else float(np.median(of(name, "scoring_tail_ms"))),
            }
            for name in names
        },
        "wall_over_raw": {n: asdict(ratio(of(n, "wall_s"), of(RAW, "wall_s"))) for n in names[1:]},
        "cpu_over_raw": {n: asdict(ratio(of(n, "cpu_s"), of(RAW, "cpu_s"))) for n in names[1:]},
        "tokens_over_fixed": float(np.sum(of(ADAPTIVE, "tokens")) / np.sum(of(FIXED, "tokens"))),
        "score_loss": float((np.mean(of(FIXED, "score")) - np.mean(of(ADAPTIVE, "score"))) / deviation),
        "winner_deviation": deviation,
        "cores": len(os.sched_getaffinity(0)),
        "rows": [{name: asdict(measured) for name, measured in row.items()} for row in rows],
    }


def table(found: dict[str, Any]) -> str:
    """Markdown: a row for each contestant."""
    rows = ["| contestant | p50 | over vLLM unscored | CPU | tokens | winner's score | tail after the last token |"]
    rows.append("|---|---|---|---|---|---|---|")
    for name, figures in found["contestants"].items():
        over, tail = found["wall_over_raw"].get(name), figures["scoring_tail_ms"]
        shown = f"{over['median']:.2f} ({over['low']:.2f} to {over['high']:.2f})" if over else ""
        rows.append(
            f"| {name} | {figures['p50_s']:.2f} s | {shown} | {figures['cpu_s']:.2f} s | {figures['tokens']:.0f} "
            f"| {figures['winner_score']:.2f} | {'' if tail is None else f'{tail:.0f} ms'} |"
        )
    return "\n".join(rows)
