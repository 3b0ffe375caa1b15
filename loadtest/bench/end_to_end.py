"""A whole best-of-8 request: sampling without any scoring, Winnow with every candidate scored, Winnow adaptive, peers.

One policy, one scorer, one run. In each round every contestant answers the same prompt once, in random order, nothing
else beside it. `again` is the fixed gateway a second time: its ratio is noise. Winners' scores are Winnow's scorer's,
asked after the clock has stopped where the contestant has another judge.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.bench.paired import ratio
from loadtest.bench.peers.best_of_n import START, Ask, PeerAnswer, Request, Upstream, plain_vllm
from loadtest.bench.processes import Server, free_port, post, served
from loadtest.workload import Workload, load_prompts

RAW, FIXED, AGAIN, ADAPTIVE = "vLLM n=8, unscored", "winnow", "again", "winnow, adaptive"
PEERS = tuple(START)
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
class BenchStack:
    """Every server of the run, and how each contestant is asked."""

    upstream: Upstream
    servers: list[Server]
    contestants: dict[str, Ask]

    def cpu_seconds(self) -> float:
        """Of all of them."""
        return sum(server.cpu_seconds() for server in self.servers)


@dataclass(frozen=True)
class EndToEndSetup:
    """Prompts, completion tokens at most, a text before each prompt, settings of the adaptive route, peers, vLLM's
    further options."""

    rounds: int
    max_tokens: int
    preamble: str
    adaptive: dict[str, Any]
    peers: Sequence[str]
    policy_options: Sequence[str] = ()


def run(setup: EndToEndSetup, logs: Path, environments: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure. Raises BenchError when a contestant does not start."""
    # A rate so high that all arrive at once: only the seeded texts are wanted.
    arrivals = Workload(1000.0, 10.0, setup.rounds + 1, 1.0, 0).arrivals(load_prompts(None))
    prompts = [f"{setup.preamble}\n\n{arrival.prompt}".strip() for arrival in arrivals][: setup.rounds + 1]
    chance, rows = random.Random(0), []
    with ExitStack() as stack:
        servers = _start(stack, setup, logs, environments, say)
        for number, prompt in enumerate(prompts):
            names = list(servers.contestants)
            chance.shuffle(names)
            request = Request([{"role": "user", "content": prompt}], setup.max_tokens, seed=number)
            row = {name: _measure(servers, name, request) for name in names}
            if number:
                rows.append(row)
            say(f"prompt {number} of {setup.rounds}: " + ", ".join(f"{n} {m.wall_s:.2f} s" for n, m in row.items()))
    settings = {"max_tokens": setup.max_tokens, "preamble_characters": len(setup.preamble), "adaptive": setup.adaptive}
    settings["policy_options"] = list(setup.policy_options)
    return _summary(rows) | settings


def _start(
    stack: ExitStack, setup: EndToEndSetup, logs: Path, environments: Path, say: Callable[[str], None]
) -> BenchStack:
    ports = [free_port() for _ in range(4)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    winnow = [sys.executable, "-m", "service"]

    def start(name: str, number: int, arguments: list[str], health: str, environment: dict[str, str]) -> Server:
        command = [*winnow, *arguments, "--port", str(ports[number])]
        log = logs / f"{name.replace(' ', '_').replace(',', '')}.log"
        return stack.enter_context(served(name, command, urls[number], health, log, environment))

    keys = logs / "keys.json"
    made = subprocess.run([*winnow, "key", "bench", "--keys", str(keys)], capture_output=True, text=True, check=True)
    servers = [
        start("policy", 0, ["policy", *setup.policy_options], "/health", {}),
        start("scorer", 1, ["scorer"], "/readyz", {}),
    ]
    shared = {"WINNOW_PROFILE": "demo", "WINNOW_KEYS_FILE": str(keys), "WINNOW_POLICY_URL": urls[0]}
    shared |= {"WINNOW_SCORER_URL": urls[1], "WINNOW_REQUESTS_PER_MINUTE": "100000", "WINNOW_STATE_DIR": str(logs)}
    adaptive = {
        f"WINNOW_ROUTES__{route}__{name.upper()}": json.dumps(value)
        for route in ("BILLING", "FRAUD")
        for name, value in setup.adaptive.items()
    }
    servers.append(start(FIXED, 2, ["gateway"], "/readyz", shared))
    servers.append(start(ADAPTIVE, 3, ["gateway"], "/readyz", shared | adaptive))
    upstream = Upstream.of(urls[0], urls[1], setup.max_tokens)
    key = made.stdout.strip()
    contestants = {RAW: plain_vllm(upstream), FIXED: _gateway(urls[2], key), ADAPTIVE: _gateway(urls[3], key)}
    contestants[AGAIN] = contestants[FIXED]
    for peer in setup.peers:
        contestants[peer], server = START[peer](stack, upstream, logs, environments, say)
        servers.append(server)
    return BenchStack(upstream, servers, contestants)


def _gateway(url: str, key: str) -> Ask:
    def ask(request: Request) -> PeerAnswer:
        body = request.body("winnow") | {"rerank": {"mode": "best_of_n"}}
        answer = post(f"{url}/v1/chat/completions", body, key)
        winner, timings = answer["rerank"]["winner"], answer["rerank"]["timings_ms"]
        tail = timings.get("scoring_tail")
        return PeerAnswer(answer["usage"]["completion_tokens"], [], (winner["score"], winner["probability"]), tail)

    return ask


def _measure(stack: BenchStack, name: str, request: Request) -> Measured:
    before, began = stack.cpu_seconds(), time.perf_counter()
    answer = stack.contestants[name](request)
    wall = time.perf_counter() - began
    time.sleep(_SETTLE_SECONDS)
    cpu = stack.cpu_seconds() - before
    score, probability = answer.winner or stack.upstream.best(request.messages, answer.texts)
    return Measured(wall, cpu, answer.tokens, score, probability, answer.scoring_tail_ms)


def _summary(rows: Sequence[dict[str, Measured]]) -> dict[str, Any]:
    def of(name: str, field: str) -> list[float]:
        return [getattr(row[name], field) for row in rows]

    names = [RAW, FIXED, AGAIN, ADAPTIVE, *(name for name in PEERS if name in rows[0])]
    deviation = float(np.std(of(FIXED, "score"), ddof=1))
    return {
        "rounds": len(rows),
        "contestants": {
            name: {
                "p50_s": float(np.median(of(name, "wall_s"))),
                "cpu_s": float(np.median(of(name, "cpu_s"))),
                "tokens": float(np.mean(of(name, "tokens"))),
                "winner_score": float(np.mean(of(name, "score"))),
                "scoring_tail_ms": _median_of_known(of(name, "scoring_tail_ms")),
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


def _median_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def table(found: dict[str, Any]) -> str:
    """Markdown: a row for each contestant."""
    head = "contestant", "p50", "over vLLM unscored", "CPU", "tokens", "winner's score", "its mean probability"
    rows = [f"| {' | '.join(head)} | tail after the last token |", f"|{'---|' * 8}"]
    for name, figures in found["contestants"].items():
        over, tail = found["wall_over_raw"].get(name), figures["scoring_tail_ms"]
        shown = f"{over['median']:.2f} ({over['low']:.2f} to {over['high']:.2f})" if over else ""
        known = [row[name]["probability"] for row in found["rows"] if row[name]["probability"] is not None]
        rows.append(
            f"| {name} | {figures['p50_s']:.2f} s | {shown} | {figures['cpu_s']:.2f} s | {figures['tokens']:.0f} "
            f"| {figures['winner_score']:.2f} | {f'{np.mean(known):.3f}' if known else 'unknown'} "
            f"| {'' if tail is None else f'{tail:.0f} ms'} |"
        )
    return "\n".join(rows)
