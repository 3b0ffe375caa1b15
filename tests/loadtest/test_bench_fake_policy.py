"""The policy that only keeps time: it speaks as vLLM does, at the pace that it is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from loadtest.bench.fake_policy import Pace, app

STEP_MS = 10.0


@asynccontextmanager
async def served(pace: Pace) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    runner = web.AppRunner(app(pace))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        yield session, f"http://127.0.0.1:{runner.addresses[0][1]}/v1/chat/completions"
    await runner.cleanup()


async def stream(session: aiohttp.ClientSession, url: str, **body: Any) -> list[dict[str, Any]]:
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with session.post(url, json={"stream": True, "stream_options": options, **body}) as response:
        lines = (await response.text()).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


async def test_a_stream_counts_its_tokens_ends_and_repeats_under_its_seed() -> None:
    async with served(Pace(tokens=20, shortest=5)) as (session, url):
        first, again, other = [await stream(session, url, seed=seed) for seed in (1, 1, 2)]
    *chunks, usage = first
    count = len(chunks) - 1
    assert 5 <= count <= 20
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == list(range(count + 1))
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], count)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * count + ["stop"]
    assert first == again
    assert first != other


async def test_whole_answers_say_what_streams_say_and_keep_to_max_tokens() -> None:
    async with served(Pace(tokens=20, shortest=20)) as (session, url):
        chunks = await stream(session, url, seed=4, max_tokens=7)
        async with session.post(url, json={"seed": 4, "max_tokens": 7}) as response:
            whole = await response.json()
    pieces = [choice["delta"]["content"] for chunk in chunks for choice in chunk["choices"]]
    assert whole["choices"][0]["message"]["content"] == "".join(pieces)
    assert whole["usage"]["completion_tokens"] == 7


async def test_sequences_decode_in_step_and_more_of_them_slow_each_step() -> None:
    async def taken(pace: Pace, sequences: int) -> float:
        async with served(pace) as (session, url):
            began = time.perf_counter()
            await asyncio.gather(*(stream(session, url) for _ in range(sequences)))
            return 1e3 * (time.perf_counter() - began)

    alike: dict[str, Any] = {"step_ms": STEP_MS, "tokens": 10, "shortest": 10}
    # At least the time that the pace asks for, less the step that is under way when a sequence begins.
    assert await taken(Pace(**alike), 8) >= 9 * STEP_MS
    assert await taken(Pace(**alike, sequence_ms=5), 8) >= 9 * STEP_MS + 8 * 7 * 5
    # One after the other where only one has room.
    assert await taken(Pace(**alike, most=1), 3) >= 3 * 9 * STEP_MS


@pytest.mark.parametrize("prefill", [0.0, 120.0])
async def test_the_first_token_waits_for_the_prefill(prefill: float) -> None:
    async with served(Pace(prefill_ms=prefill, step_ms=STEP_MS)) as (session, url):
        began = time.perf_counter()
        await stream(session, url, max_tokens=1)
        assert 1e3 * (time.perf_counter() - began) >= prefill
