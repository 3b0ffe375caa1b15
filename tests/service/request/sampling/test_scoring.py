"""A request's scores: one version for all of them, whatever the scorer does meanwhile. Over HTTP, the scorer faked."""

from __future__ import annotations

import asyncio
from typing import Any

from service.errors import ModelMoved
from service.upstream.scorer import ServedModel


async def test_a_prefill_that_hangs_blocks_no_scoring(gateway: Any) -> None:
    async def hang(prompt: Any, orm: str) -> None:
        await asyncio.sleep(3600)

    gateway.scorer.prefill = hang
    rerank = (await gateway.ask(rerank={"budget_ms": 5_000})).json()["rerank"]
    assert (rerank["n_scored"], rerank["decision"], rerank["degraded"]) == (8, "accept", None)


class Promoting:
    """A scorer whose alias moves after some calls: the old version is gone from then on."""

    def __init__(self, scorer: Any, after: int) -> None:
        self.after, self.calls, self._score = after, 0, scorer.score
        scorer.score, scorer.resolve = self.score, self.resolve
        self.resolved: list[bool] = []

    async def resolve(self, orm: str, *, fresh: bool = False) -> ServedModel:
        self.resolved.append(fresh)
        return ServedModel("fake@2" if fresh else "fake@1")

    async def score(self, prompt: Any, completions: Any, orm: str, *args: Any, **more: Any) -> Any:
        self.calls += 1
        if orm == "fake@1" and self.calls > self.after:
            raise ModelMoved("the scorer answered 409")
        reply = await self._score(prompt, completions, orm, *args, **more)
        if orm == "fake@2":
            results = [type(r)(r.index, -r.score, r.probability) for r in reply.results]
            reply = reply._replace(results=results)
        return reply


async def test_a_promotion_within_a_request_is_repinned_once(gateway: Any, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script(["word "] * (i + 1))
    promoting = Promoting(gateway.scorer, after=3)
    rerank = (await gateway.ask()).json()["rerank"]
    assert (rerank["orm"], rerank["n_scored"], rerank["decision"]) == ("fake@2", 8, "accept")
    # The new version prefers the shortest: what the old one scored was scored again.
    scores = {c["index"]: c["score"] for c in rerank["candidates"]}
    assert sorted(scores.values()) == [-5.0 * n for n in range(8, 0, -1)]
    assert promoting.resolved == [False, True]


async def test_a_version_that_keeps_moving_is_a_scorer_failure(gateway: Any) -> None:
    async def moved(*args: Any, **more: Any) -> Any:
        raise ModelMoved("the scorer answered 409")

    gateway.scorer.score = moved
    rerank = (await gateway.ask()).json()["rerank"]
    assert (rerank["degraded"], rerank["n_scored"]) == ("scorer_failed", 0)
