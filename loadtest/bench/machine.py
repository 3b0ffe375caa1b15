"""What the machine can do at best: the rates that a request's cost is modelled from."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import statistics
import string
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Shapes of the bundled model's products: tokens x 576 by 576 x 1,536, and a square one that fills every core.
_TOKENS = (8, 64, 256, 1024)
_WIDTH, _INNER, _SQUARE = 576, 1536, 2048
_STREAM_BYTES = 1 << 30
_ROUND_TRIPS = 500


@dataclass(frozen=True)
class Machine:
    """Measured rates. Products count two operations for each multiply and add."""

    cpu: str
    cores: int
    device: str
    square_gflops: dict[str, float]
    """bf16 and fp32: a square product of 2,048."""
    layer_gflops: dict[str, float]
    """bf16 by tokens: a product of the bundled model's shape."""
    read_gb_per_s: float
    round_trip_ms: float
    """A small POST to an empty FastAPI app on the loopback, median."""
    policy: PolicyShape | None
    """The policy that was named, if any."""


@dataclass(frozen=True)
class PolicyShape:
    """How fast a policy behind an OpenAI-compatible server decodes and reads."""

    step_ms: dict[str, float]
    """By sequences decoded at once: time of one step, which gives each of them a token."""
    prefill_ms: dict[str, float]
    """By words of the prompt: time to its first token."""


def measure(device: str = "cpu", policy_url: str | None = None) -> Machine:
    """About half a minute on two cores; anything that runs beside it lowers every rate."""
    import torch

    where = torch.device(device)
    # First, so that an address where nothing answers is told of at once.
    policy = None if policy_url is None else asyncio.run(_policy(policy_url))
    square = {
        name: _product(_SQUARE, _SQUARE, _SQUARE, dtype, where)
        for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
    }
    layer = {str(tokens): _product(tokens, _WIDTH, _INNER, torch.bfloat16, where) for tokens in _TOKENS}
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)),
        device=device if device == "cpu" else torch.cuda.get_device_name(where),
        square_gflops=square,
        layer_gflops=layer,
        read_gb_per_s=_read_rate(where),
        round_trip_ms=asyncio.run(_round_trip()),
        policy=policy,
    )


def best_seconds(work: Callable[[], Any], *, at_least: float = 1.0) -> float:
    """The shortest of many runs, after one to warm up: what the machine can do when nothing disturbs it."""
    work()
    times: list[float] = []
    until = time.perf_counter() + at_least
    while time.perf_counter() < until or len(times) < 3:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _product(rows: int, inner: int, columns: int, dtype: Any, device: Any) -> float:
    """GFLOP/s of a linear layer [rows, inner] x [inner, columns]."""
    import torch

    x = torch.randn(rows, inner, device=device).to(dtype)
    weight = torch.randn(columns, inner, device=device).to(dtype)

    def work() -> None:
        with torch.inference_mode():
            torch.nn.functional.linear(x, weight)
            if device.type == "cuda":
                torch.cuda.synchronize()

    return 2 * rows * inner * columns / best_seconds(work) / 1e9


def _read_rate(device: Any) -> float:
    """GB/s of reading memory once, by every core."""
    import torch

    data = torch.ones(_STREAM_BYTES // 4, dtype=torch.float32, device=device)

    def work() -> None:
        data.sum().item()

    return _STREAM_BYTES / best_seconds(work) / 1e9


async def _round_trip() -> float:
    """Median ms of a POST with a small JSON body through aiohttp to FastAPI on uvicorn, in this process."""
    import aiohttp
    import uvicorn
    from fastapi import FastAPI, Request, Response

    app = FastAPI()

    @app.post("/")
    async def echo(request: Request) -> Response:
        return Response(await request.body())

    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    # With the protocol named, asyncio turns off Nagle's delay of small packets on what is accepted.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        times = []
        async with aiohttp.ClientSession(f"http://127.0.0.1:{listener.getsockname()[1]}") as session:
            for _ in range(_ROUND_TRIPS):
                began = time.perf_counter()
                async with session.post("/", data=b'{"prompt": "hello"}') as response:
                    await response.read()
                times.append(time.perf_counter() - began)
        server.should_exit = True
        await serving
    return statistics.median(times) * 1e3


async def _policy(url: str) -> PolicyShape:
    """Decode and prefill rates; each prompt is new, so that no cache has it."""
    import aiohttp

    async with aiohttp.ClientSession(url.rstrip("/").removesuffix("/v1")) as session:
        async with session.get("/v1/models") as response:
            model = (await response.json())["data"][0]["id"]
        steps = {str(n): await _step_ms(session, model, n) for n in (1, 8)}
        prefill = {str(words): await _least(session, model, words, 1, 1) for words in (60, 250, 850)}
    return PolicyShape(steps, prefill)


async def _step_ms(session: Any, model: str, n: int) -> float:
    """Ms a step over the decoding of `n` completions of 65 tokens, the first step left out."""
    first = await _least(session, model, 20, n, 1)
    return (await _least(session, model, 20, n, 65) - first) / 64


async def _least(session: Any, model: str, words: int, n: int, tokens: int) -> float:
    """The least of five requests, in ms, after one to warm up."""
    return min([await _complete(session, model, words, n, tokens) for _ in range(6)][1:])


async def _complete(session: Any, model: str, words: int, n: int, tokens: int) -> float:
    """Ms of one request with a random prompt."""
    prompt = " ".join(random.choices(string.ascii_lowercase, k=words))
    body = {"model": model, "prompt": prompt, "n": n, "max_tokens": tokens, "ignore_eos": True, "temperature": 1.0}
    began = time.perf_counter()
    async with session.post("/v1/completions", json=body) as response:
        response.raise_for_status()
        await response.read()
    return (time.perf_counter() - began) * 1e3


def _cpu_name() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        names = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
    return names[0] if names else "unknown"
