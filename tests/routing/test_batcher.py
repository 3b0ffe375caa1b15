"""Routing on an event loop: quick answers at once, the others in batches on one thread, errors to who waits."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from routing.batcher import BATCH, RouteBatcher
from routing.router import RouteDecision


class Slow:
    """Quick for texts that begin with q; others wait until they are let go, and are counted with their thread."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.routed: list[str] = []
        self.threads: set[str] = set()

    def quick(self, conversation: Any) -> RouteDecision | None:
        return RouteDecision("default", False, 0.0) if conversation.startswith("q") else None

    def route(self, conversation: Any) -> RouteDecision:
        self.go.wait(10)
        self.threads.add(threading.current_thread().name)
        self.routed.append(conversation)
        if conversation == "bad":
            raise ValueError("bad")
        return RouteDecision(conversation, True, 1.0)


async def test_quick_ones_do_not_wait_for_slow_ones() -> None:
    router = Slow()
    batcher = RouteBatcher(router)
    slow = asyncio.create_task(batcher.route("slow"))
    await asyncio.sleep(0)
    assert (await batcher.route("quick")).route == "default"
    assert not slow.done()
    router.go.set()
    assert (await slow).route == "slow"
    await batcher.close()


async def test_each_gets_its_own_answer_in_order_on_one_thread() -> None:
    router = Slow()
    router.go.set()
    batcher = RouteBatcher(router)
    names = [f"r{number}" for number in range(3 * BATCH)]
    decisions = await asyncio.gather(*(batcher.route(name) for name in names))
    assert [decision.route for decision in decisions] == names == router.routed
    assert len(router.threads) == 1
    await batcher.close()


async def test_an_error_reaches_only_who_asked() -> None:
    router = Slow()
    router.go.set()
    batcher = RouteBatcher(router)
    bad, fine = await asyncio.gather(batcher.route("bad"), batcher.route("fine"), return_exceptions=True)
    assert isinstance(bad, ValueError)
    assert isinstance(fine, RouteDecision)
    await batcher.close()


async def test_who_went_away_is_not_routed() -> None:
    router = Slow()
    batcher = RouteBatcher(router)
    first = asyncio.create_task(batcher.route("first"))
    await asyncio.sleep(0.01)
    gone = asyncio.create_task(batcher.route("gone"))
    last = asyncio.create_task(batcher.route("last"))
    await asyncio.sleep(0.01)
    gone.cancel()
    router.go.set()
    await asyncio.gather(first, last)
    assert router.routed == ["first", "last"]
    await batcher.close()
    with pytest.raises(RuntimeError):
        await batcher.route("late")
