"""The loop is open: a stalled server delays answers, never arrivals, and the stall is in every latency."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from loadtest.client import Target
from loadtest.errors import BadTarget
from loadtest.run import run
from loadtest.workload import Arrival

STALL_S = 0.6


def every(gap_s: float, count: int) -> list[Arrival]:
    return [Arrival(index * gap_s, "default", f"question {index}") for index in range(count)]


async def test_a_stalled_server_shows_in_the_latency_of_every_request_it_held_up(server: Any) -> None:
    """Requests at 0, 20, 40 ... 780 ms; the server answers nothing before 600 ms and all at once after that.

    A closed loop would have sent one request during the stall and measured 600 ms once; request i waits
    600 - 20 i ms and then next to nothing.
    """
    began: list[float] = []

    async def reply(request: web.Request) -> web.StreamResponse:
        began.append(time.monotonic())
        await asyncio.sleep(max(0.0, began[0] + STALL_S - time.monotonic()))
        response: web.StreamResponse = await server.reply(request)
        return response

    server.handler = reply
    arrivals = every(0.02, 40)
    result = await run(Target(server.url, "m", 1), arrivals, timeout_s=10, stop=asyncio.Event())

    expected = np.array([max(0.0, STALL_S - arrival.at_s) * 1e3 for arrival in arrivals])
    measured = np.array([outcome.latency_ms for outcome in result.outcomes])
    assert all(outcome.error is None for outcome in result.outcomes)
    # The machine may be busy: it can only add, so the typical error is small and none is negative by much.
    assert np.median(np.abs(measured - expected)) < 60
    assert (measured - expected).min() > -60
    assert abs(np.percentile(measured, 95) - np.percentile(expected, 95)) < 100

    sent = np.array([when for when, _ in server.seen])
    assert np.median(np.abs((sent - sent[0]) - [arrival.at_s for arrival in arrivals])) < 0.06
    assert STALL_S < result.elapsed_s < STALL_S + 2
    assert not result.interrupted


async def test_outcomes_keep_the_order_of_the_schedule(server: Any) -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.3 if len(server.seen) == 1 else 0.0)
        response: web.StreamResponse = await server.reply(request)
        return response

    server.handler = reply
    done = []
    arrivals = [Arrival(0.0, "billing", "slow"), Arrival(0.1, "default", "fast")]
    result = await run(
        Target(server.url, "m", 1),
        arrivals,
        timeout_s=5,
        stop=asyncio.Event(),
        on_done=lambda: done.append(1),
    )
    assert [outcome.kind for outcome in result.outcomes] == ["billing", "default"]
    assert result.outcomes[0].latency_ms >= 300 > result.outcomes[1].latency_ms
    assert len(done) == 2


async def test_a_run_ends_a_timeout_after_its_last_arrival(server: Any) -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        response: web.StreamResponse = await server.reply(request)
        return response

    server.handler = reply
    result = await run(Target(server.url, "m", 1), every(0.05, 4), timeout_s=0.3, stop=asyncio.Event())
    assert [outcome.error for outcome in result.outcomes] == ["timeout"] * 4
    assert 0.45 <= result.elapsed_s < 2


async def test_stop_ends_a_run_with_what_there_is(server: Any) -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0 if len(server.seen) == 1 else 30)
        response: web.StreamResponse = await server.reply(request)
        return response

    server.handler = reply
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.5, stop.set)
    result = await run(Target(server.url, "m", 1), every(0.2, 1000), timeout_s=30, stop=stop)
    errors = [outcome.error for outcome in result.outcomes]
    assert result.interrupted
    assert errors[0] is None
    assert set(errors[1:]) == {"cancelled"}
    assert 2 <= len(errors) <= 3, "sent at 0, 0.2 and 0.4 s"
    assert result.elapsed_s < 3


async def test_no_load_is_sent_where_nobody_answers_the_first_question(server: Any) -> None:
    server.models_status = 500
    with pytest.raises(BadTarget):
        await run(Target(server.url, "m", 1), every(0.1, 3), timeout_s=1, stop=asyncio.Event())
    assert server.seen == []
