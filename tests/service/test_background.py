"""Background loops: heard when they fail, restarted, and gone with the app."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from service.background import Background, running_background
from service.telemetry.metrics import Metrics


async def _until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.001)


async def test_a_loop_that_fails_or_ends_is_down_counted_and_restarted() -> None:
    metrics = Metrics(CollectorRegistry())
    background = Background(metrics, 0.02)
    runs, down = list[int](), list[bool]()

    async def loop() -> None:
        runs.append(len(runs))
        down.append("webhook" in background.down)
        if len(runs) == 1:
            raise OSError("the store is away")
        if len(runs) == 2:
            return
        await asyncio.Event().wait()

    background.start("webhook", loop)
    await _until(lambda: "webhook" in background.down)
    await _until(lambda: len(runs) == 3)
    assert down == [False, False, False]
    failures = metrics.registry.get_sample_value("winnow_background_failures_total", {"task": "webhook"})
    assert failures == 2
    await background.stop()


async def test_loops_end_with_their_block() -> None:
    ended = asyncio.Event()

    async def loop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with running_background(Metrics(CollectorRegistry())) as background:
        background.start("retention", loop)
        await asyncio.sleep(0)
    assert ended.is_set()
