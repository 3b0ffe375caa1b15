"""The gateway's client of a scorer, over HTTP: what it makes of refusals, nonsense, promotions and silence."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from service.errors import ModelMoved, ScorerLate, ScorerUnavailable
from service.settings import UpstreamSettings
from service.upstream.guard import Guard
from service.upstream.scorer import HttpScorer, Scored, ScoreReply
from tests.service.upstream.servers import Handler, serving

SECRET = "CUDA OOM at 10.0.0.5"
GOOD = {"index": 0, "score": 1.5, "probability": 0.25, "disagreement": None}


async def score(url: str, session: aiohttp.ClientSession, deadline_ms: int = 1_500, count: int = 1) -> ScoreReply:
    completions = [{"index": index, "content": "a"} for index in range(count)]
    return await HttpScorer(url, None, session).score([], completions, "fake@1", "billing", deadline_ms)


def replying(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Handler:
    async def reply(request: web.Request) -> web.Response:
        assert (await request.json())["deadline_ms"] == 1_500
        if isinstance(body, str):
            return web.Response(text=body, status=status, content_type="text/html")
        return web.json_response(body, status=status, headers=headers)

    return reply


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (504, ScorerLate, "timeout"),
        (503, ScorerUnavailable, "overloaded"),
        (500, ScorerUnavailable, "failed"),
        (401, ScorerUnavailable, "misconfigured"),
        (404, ModelMoved, "moved"),
        (409, ModelMoved, "moved"),
        (302, ScorerUnavailable, "failed"),
    ],
)
async def test_a_refusal_is_told_in_our_words(
    status: int, error: type[ScorerUnavailable], kind: str, session: aiohttp.ClientSession
) -> None:
    body = {"error": {"message": SECRET}}
    headers = {"retry-after": "2.2", "location": "/elsewhere"}
    async with serving(web.post("/v1/score", replying(body, status, headers))) as url:
        with pytest.raises(ScorerUnavailable) as caught:
            await score(url, session)
    assert type(caught.value) is error
    assert caught.value.kind == kind
    assert "10.0.0.5" not in str(caught.value)
    assert caught.value.retry_after == (3 if status in (500, 503) else 3 if status == 302 else None)


async def test_a_good_reply_is_read(session: aiohttp.ClientSession) -> None:
    body = {"orm": "fake@1", "calibrator": {"id": "c"}, "results": [GOOD], "usage": {}}
    async with serving(web.post("/v1/score", replying(body))) as url:
        reply = await score(url, session)
    assert reply == ScoreReply("fake@1", {"id": "c"}, [Scored(0, 1.5, 0.25, None)])


@pytest.mark.parametrize(
    "body",
    [
        f"<html>{SECRET}</html>",
        '{"orm": "fake@1", "results": [{"index": 0, "score": NaN}, {"index": 1, "score": 1}]}',
        '{"orm": "fake@1", "results": [{"index": 0, "score": 1e999}, {"index": 1, "score": 1}]}',
        {"orm": "fake@1", "results": [GOOD]},
        {"orm": "fake@1", "results": [GOOD, GOOD | {"index": 1}, GOOD | {"index": 2}]},
        {"orm": "fake@1", "results": [GOOD | {"index": 1}, GOOD]},
        {"orm": "fake@1", "results": [GOOD, GOOD]},
        {"orm": "fake@1", "results": [GOOD, GOOD | {"index": 1, "probability": 1.2}]},
        {"orm": "fake@1", "results": [GOOD, GOOD | {"index": 1, "probability": -0.1}]},
        {"orm": "fake@1", "results": [GOOD, GOOD | {"index": 1, "score": None}]},
        {"orm": "fake@1", "results": [GOOD, GOOD | {"index": 1, "score": "high"}]},
        {"orm": "fake@1", "results": None},
        {"results": [GOOD, GOOD | {"index": 1}]},
        [],
        None,
    ],
)
async def test_nonsense_is_a_failure_in_our_words(body: Any, session: aiohttp.ClientSession) -> None:
    async with serving(web.post("/v1/score", replying(body))) as url:
        with pytest.raises(ScorerUnavailable, match=r"^the scorer") as caught:
            await score(url, session, count=2)
    assert type(caught.value) is ScorerUnavailable
    assert caught.value.kind == "malformed"
    assert "10.0.0.5" not in str(caught.value)


async def hang(request: web.Request) -> web.Response:
    await asyncio.sleep(30)
    return web.Response()


async def test_silence_until_the_deadline_is_late_and_no_failure(session: aiohttp.ClientSession) -> None:
    async with serving(web.post("/v1/score", hang)) as url:
        with pytest.raises(ScorerLate):
            await score(url, session, deadline_ms=100)


async def test_nobody_there_is_unreachable(session: aiohttp.ClientSession) -> None:
    async with serving() as url:
        pass
    with pytest.raises(ScorerUnavailable) as caught:
        await score(url, session)
    assert type(caught.value) is ScorerUnavailable
    assert caught.value.kind == "unreachable"


async def test_a_hung_prefill_ends_with_the_time_it_is_given(session: aiohttp.ClientSession) -> None:
    async with serving(web.post("/v1/prefill", hang)) as url:
        async with asyncio.timeout(5):
            with pytest.raises(ScorerUnavailable):
                await HttpScorer(url, None, session).prefill([], "fake@1", timeout_ms=100)


@pytest.mark.parametrize("salted", [True, False])
async def test_the_scorer_hears_of_a_salt_only_if_it_is_to_separate_tenants(
    salted: bool, session: aiohttp.ClientSession
) -> None:
    bodies: list[dict[str, Any]] = []

    async def reply(request: web.Request) -> web.Response:
        bodies.append(await request.json())
        return web.json_response({"orm": "fake@1", "results": [GOOD]})

    async with serving(web.post("/v1/score", reply), web.post("/v1/prefill", reply)) as url:
        scorer = HttpScorer(url, None, session, salted=salted)
        await scorer.prefill([], "fake@1", cache_salt="acme")
        await scorer.score([], [{"index": 0, "content": "a"}], "fake@1", "billing", 1_500, cache_salt="acme")
        await scorer.prefill([], "fake@1")
    assert [body.get("cache_salt") for body in bodies] == (["acme", "acme", None] if salted else [None] * 3)
    assert "cache_salt" not in bodies[-1]


class Models:
    """GET /v1/models of a scorer that can promote, and its count of calls."""

    def __init__(self) -> None:
        self.id, self.calls, self.answer = "fake@1", 0, asyncio.Event()
        self.answer.set()
        self.status = 200

    async def show(self, request: web.Request) -> web.Response:
        self.calls += 1
        await self.answer.wait()
        entry = {"id": self.id, "aliases": ["champion"], "stopping": None}
        return web.json_response({"data": [entry]}, status=self.status)


async def test_many_who_wait_ask_once(session: aiohttp.ClientSession) -> None:
    models = Models()
    models.answer.clear()
    async with serving(web.get("/v1/models", models.show)) as url:
        scorer = HttpScorer(url, None, session)
        waiting = [asyncio.create_task(scorer.resolve("champion")) for _ in range(20)]
        await asyncio.sleep(0.1)
        waiting[0].cancel()
        models.answer.set()
        resolved = await asyncio.gather(*waiting[1:])
        assert {model.id for model in resolved} == {"fake@1"}
        assert models.calls == 1
        assert (await scorer.resolve("fake@1")).id == "fake@1"
        assert models.calls == 1


async def test_a_failure_is_everybodys_and_not_remembered(session: aiohttp.ClientSession) -> None:
    models = Models()
    models.status = 500
    async with serving(web.get("/v1/models", models.show)) as url:
        scorer = HttpScorer(url, None, session)
        results = await asyncio.gather(*(scorer.resolve("champion") for _ in range(20)), return_exceptions=True)
        assert all(isinstance(result, ScorerUnavailable) for result in results)
        assert models.calls == 1
        models.status = 200
        assert (await scorer.resolve("champion")).id == "fake@1"


async def test_after_a_promotion_a_fresh_look_finds_the_new_version(session: aiohttp.ClientSession) -> None:
    models = Models()
    async with serving(web.get("/v1/models", models.show)) as url:
        scorer = HttpScorer(url, None, session)
        assert (await scorer.resolve("champion")).id == "fake@1"
        models.id = "fake@2"
        assert (await scorer.resolve("champion")).id == "fake@1"
        assert (await scorer.resolve("champion", fresh=True)).id == "fake@2"
        assert models.calls == 2


@pytest.mark.parametrize("body", [f"<html>{SECRET}</html>", {"data": [{"id": 7}]}, {"data": None}, {}])
async def test_a_list_of_models_that_is_none_is_a_failure(body: Any, session: aiohttp.ClientSession) -> None:
    async def models(request: web.Request) -> web.Response:
        return web.Response(text=body) if isinstance(body, str) else web.json_response(body)

    async with serving(web.get("/v1/models", models)) as url:
        with pytest.raises(ScorerUnavailable, match=r"^the scorer sent something else"):
            await HttpScorer(url, None, session).resolve("champion")


async def test_a_model_that_is_not_served_is_said(session: aiohttp.ClientSession) -> None:
    async with serving(web.get("/v1/models", Models().show)) as url:
        with pytest.raises(ScorerUnavailable, match="no model 'other@1'"):
            await HttpScorer(url, None, session).resolve("other@1")


@pytest.mark.parametrize(
    ("status", "answers"), [(200, True), (400, True), (503, True), (500, False), (401, False), (409, False)]
)
async def test_a_probe_scores_one_token(status: int, answers: bool, session: aiohttp.ClientSession) -> None:
    async def reply(request: web.Request) -> web.Response:
        body = await request.json()
        assert (len(body["completions"]), body["partial"]) == (1, True)
        return web.json_response({"orm": "fake@1", "results": [GOOD]}, status=status)

    async with serving(web.post("/v1/score", reply)) as url:
        assert await HttpScorer(url, None, session).healthy() is answers


async def test_a_frozen_engine_that_lists_its_models_opens_the_circuit(session: aiohttp.ClientSession) -> None:
    models = Models()
    guard = Guard("scorer", ScorerUnavailable, UpstreamSettings(failures=2, stall_seconds=0.05, probe_seconds=0.1))
    async with serving(web.post("/v1/score", hang), web.get("/v1/models", models.show)) as url:
        scorer = HttpScorer(url, None, session, guard)
        with pytest.raises(ScorerLate):
            await scorer.score([], [{"index": 0}], "fake@1", "billing", 100)
        await scorer.resolve("champion", fresh=True)
        assert not await scorer.healthy()
        assert guard.circuit.open
        for call in (scorer.resolve("champion", fresh=True), scorer.prefill([], "fake@1")):
            with pytest.raises(ScorerUnavailable) as caught:
                await call
            assert caught.value.kind == "circuit_open"
