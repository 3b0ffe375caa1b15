"""What a gateway costs: requests that it passes on to an upstream which answers at once, beside asking that directly.

Each gateway has the first core to itself; upstream and client share the second. In each round every contestant is
measured once, in random order. `again` is ours a second time: its ratio is noise.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from loadtest.bench.environments import ITS_HUB, LITELLM, RECIPES, ROUTER, environment
from loadtest.bench.fake_policy import MODEL
from loadtest.bench.paired import ratio
from loadtest.bench.processes import BenchError, free_port, post, served

DIRECT, OURS, AGAIN, UNROUTED = "direct", "winnow", "again", "winnow, nothing to route"
PEERS = (LITELLM, ROUTER, ITS_HUB)
# A router may be quicker with some than with others; none of these is about billing or fraud.
_PROMPTS = (
    "Which of the two plans is the better one for a family of four that travels twice a year?",
    "Please recommend three quiet neighbourhoods in Lisbon for a weekend.",
    "Write a friendly reminder that the meeting moved to Tuesday.",
    "Tell me a short story about a lighthouse keeper.",
    "Convert 250 grams of flour to cups.",
    "Draft a thank-you note to a colleague who helped me move to Porto.",
    "How do I turn on dark mode?",
    "Explain compound interest to a ten-year-old.",
    "Give me five names for a small bakery.",
    "Which train goes from the centre to the airport?",
    "What is a good recipe for lentil soup?",
    "How do I change the language of the app?",
)
_OF_EACH, _AT_ONCE, _SECONDS = 5, 32, 3.0
TOKENS = 96


@dataclass(frozen=True)
class GatewayContestant:
    """Where it is asked, for which model, by whom; whether it streams as the upstream does, and in which role.

    Only what a user says is routed: a system message is passed on without the classifier's time.
    """

    url: str
    model: str
    key: str
    streams: bool = True
    role: str = "user"


@dataclass
class Figures:
    """A value for each round."""

    latency_ms: list[float] = field(default_factory=list)
    stream_ms: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    route_ms: list[float] = field(default_factory=list)


def run(
    rounds: int, logs: Path, environments: Path, peers: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure. Raises BenchError when a contestant does not start or does not answer, or there is but one core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("two cores are needed: one for the gateway, one for upstream and client")
    gateway, rest = {cores[0]}, {cores[1]}
    places = {peer: environment(environments, peer, RECIPES[peer], say) for peer in peers}
    with ExitStack() as stack:
        port = free_port()
        command = [sys.executable, "-m", "loadtest.bench.fake_policy", "--port", str(port), "--tokens", str(TOKENS)]
        url = f"http://127.0.0.1:{port}"
        stack.enter_context(served("upstream", command, url, "/health", logs / "upstream.log", cores=rest))
        contestants = {DIRECT: GatewayContestant(url, MODEL, "none"), OURS: _winnow(stack, url, logs, gateway)}
        contestants[AGAIN] = contestants[OURS]
        contestants[UNROUTED] = replace(contestants[OURS], role="system")
        for peer in peers:
            contestants[peer] = _START[peer](stack, places[peer], url, logs, gateway)
        os.sched_setaffinity(0, rest)
        try:
            figures = asyncio.run(_rounds(contestants, rounds, say))
        finally:
            os.sched_setaffinity(0, cores)
    return _summary(figures, rounds)


async def _rounds(
    contestants: dict[str, GatewayContestant], rounds: int, say: Callable[[str], None]
) -> dict[str, Figures]:
    figures = {name: Figures() for name in contestants}
    chance = random.Random(0)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        for number in range(rounds + 1):
            names = list(contestants)
            chance.shuffle(names)
            for name in names:
                await _measure(session, contestants[name], figures[name] if number else Figures())
            say(f"round {number} of {rounds}")
    return figures


async def _measure(session: aiohttp.ClientSession, contestant: GatewayContestant, figures: Figures) -> None:
    # The mean over prompts of each prompt's median: an outlier counts little, a slow prompt in full.
    latencies, routes = list[float](), list[float]()
    for prompt in _PROMPTS:
        alone = [await _timed(session, contestant, prompt, stream=False) for _ in range(_OF_EACH)]
        latencies.append(float(np.median([taken for taken, _ in alone])))
        routes += [float(np.median(routed))] if (routed := [route for _, route in alone if route is not None]) else []
    figures.latency_ms.append(float(np.mean(latencies)))
    if routes:
        figures.route_ms.append(float(np.mean(routes)))
    if contestant.streams:
        streams = [await _timed(session, contestant, prompt, stream=True) for prompt in _PROMPTS]
        figures.stream_ms.append(float(np.median([taken for taken, _ in streams])))
    until, done, prompts = time.perf_counter() + _SECONDS, 0, itertools.cycle(_PROMPTS)

    async def ask_on() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await _timed(session, contestant, next(prompts), stream=False)
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(ask_on() for _ in range(_AT_ONCE)))
    figures.per_second.append(done / (time.perf_counter() - began))


async def _timed(
    session: aiohttp.ClientSession, contestant: GatewayContestant, prompt: str, *, stream: bool
) -> tuple[float, float | None]:
    """Milliseconds of one request, and of its routing where the answer says so; raises BenchError for an error."""
    messages = [{"role": contestant.role, "content": prompt}]
    body = {"model": contestant.model, "messages": messages, "max_tokens": TOKENS}
    headers = {"authorization": f"Bearer {contestant.key}"}
    url = f"{contestant.url}/v1/chat/completions"
    began = time.perf_counter()
    async with session.post(url, json=body | ({"stream": True} if stream else {}), headers=headers) as response:
        raw = await response.read()
        taken = 1e3 * (time.perf_counter() - began)
        if response.status != 200 or (stream and raw.count(b"data: ") < TOKENS):
            raise BenchError(f"{contestant.url} answered {response.status}: {raw[:300]!r}")
        timing = response.headers.get("server-timing", "")
    route = timing.partition("route;dur=")[2].partition(",")[0]
    return taken, float(route) if route else None


def _winnow(stack: ExitStack, upstream: str, logs: Path, cores: set[int]) -> GatewayContestant:
    keys, port = logs / "keys.json", free_port()
    command = [sys.executable, "-m", "service"]
    made = subprocess.run([*command, "key", "bench", "--keys", str(keys)], capture_output=True, text=True, check=True)
    environment = {"WINNOW_KEYS_FILE": str(keys), "WINNOW_POLICY_URL": upstream, "WINNOW_POLICY_MODEL": MODEL}
    environment |= {"WINNOW_REQUESTS_PER_MINUTE": "100000000", "WINNOW_MAX_INFLIGHT_CANDIDATES": "10000"}
    environment |= {"WINNOW_CONCURRENT_CANDIDATES": "10000", "WINNOW_TOKENS_PER_MINUTE": "1000000000"}
    environment["WINNOW_STATE_DIR"] = str(logs)
    command += ["gateway", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    stack.enter_context(served(OURS, command, url, "/livez", logs / "winnow.log", environment, cores))
    return GatewayContestant(url, "winnow", made.stdout.strip())


def _litellm(stack: ExitStack, place: Path, upstream: str, logs: Path, cores: set[int]) -> GatewayContestant:
    port, config = free_port(), logs / "litellm.yaml"
    settings = {"model": f"openai/{MODEL}", "api_base": f"{upstream}/v1", "api_key": "none"}
    models = [{"model_name": MODEL, "litellm_params": settings}]
    general = {"master_key": "os.environ/LITELLM_MASTER_KEY"}
    config.write_text(json.dumps({"model_list": models, "general_settings": general}))
    command = [str(place / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--num_workers", "1", "--telemetry", "False"]
    key = f"sk-{secrets.token_hex(16)}"
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": key}
    url = f"http://127.0.0.1:{port}"
    stack.enter_context(served(LITELLM, command, url, "/health/liveliness", logs / "litellm.log", environment, cores))
    return GatewayContestant(url, MODEL, key)


def _vllm_router(stack: ExitStack, place: Path, upstream: str, logs: Path, cores: set[int]) -> GatewayContestant:
    port = free_port()
    command = [str(place / "vllm-router"), "--worker-urls", upstream, "--host", "127.0.0.1", "--port", str(port)]
    command += ["--policy", "round_robin", "--prometheus-port", str(free_port())]
    url = f"http://127.0.0.1:{port}"
    stack.enter_context(served(ROUTER, command, url, "/health", logs / "vllm_router.log", None, cores))
    return GatewayContestant(url, MODEL, "none")


def _its_hub(stack: ExitStack, place: Path, upstream: str, logs: Path, cores: set[int]) -> GatewayContestant:
    """With a budget of one completion, which is as near to passing a request on as it comes."""
    port = free_port()
    command = [str(place / "its-iaas"), "--host", "127.0.0.1", "--port", str(port), "--log-level", "ERROR"]
    url = f"http://127.0.0.1:{port}"
    stack.enter_context(served(ITS_HUB, command, url, "/v1/models", logs / "its_hub.log", None, cores))
    settings = {"endpoint": f"{upstream}/v1", "api_key": "none", "model": MODEL, "alg": "self-consistency"}
    post(f"{url}/configure", settings | {"budget": 1, "regex_patterns": [".*"]})
    # It sends a stream only when the whole answer is there.
    return GatewayContestant(url, MODEL, "none", streams=False)


_START = {LITELLM: _litellm, ROUTER: _vllm_router, ITS_HUB: _its_hub}


def _summary(figures: dict[str, Figures], rounds: int) -> dict[str, Any]:
    direct, ours, unrouted = figures[DIRECT], figures[OURS], figures[UNROUTED]
    found: dict[str, Any] = {}
    for name, of in figures.items():
        added = np.array(of.latency_ms) - np.array(direct.latency_ms)
        found[name] = {
            "latency_ms": float(np.median(of.latency_ms)),
            "added_ms": float(np.median(added)),
            "route_ms": float(np.median(of.route_ms)) if of.route_ms else None,
            "stream_ms": float(np.median(of.stream_ms)) if of.stream_ms else None,
            "per_second": float(np.median(of.per_second)),
            "ours_per_second_over_its": asdict(ratio(ours.per_second, of.per_second)),
            "unrouted_per_second_over_its": asdict(ratio(unrouted.per_second, of.per_second)),
        }
    return {
        "rounds": rounds,
        "tokens": TOKENS,
        "contestants": found,
        "values": {n: asdict(f) for n, f in figures.items()},
    }


def table(found: dict[str, Any]) -> str:
    """Markdown: a row for each contestant."""
    rows = [
        f"| contestant | p50 | added | of which routing | stream of {TOKENS} chunks | requests a second "
        "| winnow / its p50 | winnow / its p50, nothing to route |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, of in found["contestants"].items():
        over, apart = (
            f"{of[key]['median']:.2f} ({of[key]['low']:.2f} to {of[key]['high']:.2f})"
            for key in ("ours_per_second_over_its", "unrouted_per_second_over_its")
        )
        route, stream = (f"{of[key]:.2f} ms" if of[key] is not None else "" for key in ("route_ms", "stream_ms"))
        added = "" if name == DIRECT else f"{of['added_ms']:.2f} ms"
        rows.append(
            f"| {name} | {of['latency_ms']:.2f} ms | {added} | {route} | {stream} | {of['per_second']:.0f} "
            f"| {over} | {apart} |"
        )
    return "\n".join(rows)
