"""From a held answer to what a person made of it, over HTTP, on both stores."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from service.keys.key_file import add_key
from service.reviews.queue import Reviews, measure_backlog
from service.store.database import open_database
from service.telemetry.metrics import Metrics


class Reviewer:
    """A key of an operator at a gateway."""

    def __init__(self, gateway: Any, name: str, role: str = "operator", tenants: Any = ("*",)) -> None:
        self._gateway = gateway
        key = add_key(gateway.keys_file, name, role, tenants=None if role == "client" else tenants)
        self._headers = {"Authorization": f"Bearer {key}"}

    async def get(self, path: str, **params: Any) -> Any:
        return await self._gateway.http.get(f"{self._gateway.url}/v1{path}", headers=self._headers, params=params)

    async def post(self, path: str, body: Any = None) -> Any:
        return await self._gateway.http.post(f"{self._gateway.url}/v1{path}", headers=self._headers, json=body or {})


@pytest.fixture
def held(start_gateway: Any, store_url: str) -> Any:
    """A gateway whose answers all wait for a person."""

    @asynccontextmanager
    async def start(**settings: Any) -> Any:
        async with start_gateway(store={"url": store_url}, **settings) as gateway:
            gateway.scorer.probability = lambda score: 0.45
            yield gateway

    return start


async def asked(gateway: Any, content: str = "I was charged twice") -> tuple[str, str]:
    """Ids of a held answer and of its ticket."""
    body = (await gateway.ask(content)).json()
    return body["id"], body["rerank"]["review_id"]


async def fetched(gateway: Any, response_id: str) -> Any:
    headers = {"Authorization": f"Bearer {gateway.key}"}
    return (await gateway.http.get(f"{gateway.url}/v1/rerank/{response_id}", headers=headers)).json()


async def test_a_held_answer_is_a_ticket_before_it_is_promised_and_is_fetched_when_decided(held: Any) -> None:
    async with held() as gateway:
        response_id, review_id = await asked(gateway)
        anna = Reviewer(gateway, "anna")
        (listed,) = (await anna.get("/reviews")).json()["data"]
        assert (listed["id"], listed["response_id"], listed["status"]) == (review_id, response_id, "open")
        assert (listed["reason"], listed["chance"]) == ("probability", 1.0)
        ticket = (await anna.get(f"/reviews/{review_id}")).json()
        assert ticket["prompt"][-1]["content"] == "I was charged twice"
        scores = [candidate["score"] for candidate in ticket["candidates"]]
        assert scores == sorted(scores, reverse=True)
        assert (await fetched(gateway, response_id))["review"]["status"] == "open"
        assert (await anna.post(f"/reviews/{review_id}/claim")).status_code == 200
        decided = await anna.post(f"/reviews/{review_id}/verdict", {"verdict": "accept", "reasons": ["honesty"]})
        assert decided.json()["decided_by"] == "anna"
        review = (await fetched(gateway, response_id))["review"]
        assert review == {
            "id": review_id,
            "status": "decided",
            "verdict": "accept",
            "text": ticket["candidates"][0]["content"],
            "message": ticket["candidates"][0]["message"],
        }
        assert (await anna.get("/reviews")).json()["data"] == []
        assert len((await anna.get("/reviews", status="decided", route="billing")).json()["data"]) == 1
        assert (await anna.get("/reviews", status="decided", route="fraud")).json()["data"] == []


@pytest.mark.parametrize(
    ("verdict", "sent"),
    [
        ({"verdict": "choose", "candidate": 3}, None),
        ({"verdict": "edit", "text": "By hand."}, "By hand."),
        ({"verdict": "reject", "note": "none of them"}, None),
    ],
)
async def test_what_a_client_gets_of_each_verdict(held: Any, verdict: dict[str, Any], sent: str | None) -> None:
    async with held() as gateway:
        response_id, review_id = await asked(gateway)
        bob = Reviewer(gateway, "bob")
        ticket = (await bob.get(f"/reviews/{review_id}")).json()
        by_index = {candidate["index"]: candidate["content"] for candidate in ticket["candidates"]}
        await bob.post(f"/reviews/{review_id}/claim")
        assert (await bob.post(f"/reviews/{review_id}/verdict", verdict)).status_code == 200
        review = (await fetched(gateway, response_id))["review"]
        assert review["verdict"] == verdict["verdict"]
        assert review["text"] == (by_index[3] if verdict["verdict"] == "choose" else sent)


async def test_two_reviewers_never_hold_one_ticket(held: Any) -> None:
    async with held() as gateway:
        _, review_id = await asked(gateway)
        reviewers = [Reviewer(gateway, f"r{number}") for number in range(6)]
        answers = await asyncio.gather(*(reviewer.post(f"/reviews/{review_id}/claim") for reviewer in reviewers))
        codes = sorted(answer.status_code for answer in answers)
        assert codes == [200, 409, 409, 409, 409, 409]
        (first,) = (r for r, answer in zip(reviewers, answers, strict=True) if answer.status_code == 200)
        other = next(reviewer for reviewer in reviewers if reviewer is not first)
        refused = await other.post(f"/reviews/{review_id}/verdict", {"verdict": "accept"})
        assert refused.status_code == 409
        assert "is held by r" in refused.json()["error"]["message"]
        assert (await first.post(f"/reviews/{review_id}/release")).status_code == 200
        assert (await other.post(f"/reviews/{review_id}/verdict", {"verdict": "accept"})).status_code == 409
        assert (await other.post(f"/reviews/{review_id}/claim")).status_code == 200
        assert (await other.post(f"/reviews/{review_id}/verdict", {"verdict": "accept"})).status_code == 200
        again = await other.post(f"/reviews/{review_id}/verdict", {"verdict": "reject"})
        assert "was decided by r" in again.json()["error"]["message"]


async def test_a_claim_that_is_forgotten_runs_out(held: Any, store_url: str) -> None:
    async with held() as gateway:
        _, review_id = await asked(gateway)
    engine = await open_database(store_url)
    reviews = Reviews(engine, hold_ms=-1)
    for name in ("anna", "bob"):
        assert (await reviews.claim(review_id, name))["claimed_by"] == name
    await engine.dispose()


async def test_who_may_what(held: Any) -> None:
    async with held() as gateway:
        response_id, review_id = await asked(gateway)
        for path in ("/reviews", f"/reviews/{review_id}"):
            refused = await Reviewer(gateway, "client", "client").get(path)
            assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
        stranger = Reviewer(gateway, "stranger", "client")
        assert (await stranger.get(f"/rerank/{response_id}")).status_code == 404
        assert (await Reviewer(gateway, "root", "admin").get(f"/reviews/{review_id}")).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/reviews/{id}/verdict", {"verdict": "choose"}, 400, "`candidate` names the reply"),
        ("/reviews/{id}/verdict", {"verdict": "edit"}, 400, "`text` is the reply"),
        ("/reviews/{id}/verdict", {"verdict": "maybe"}, 400, "verdict must be"),
        ("/reviews/{id}/verdict", {"verdict": "reject", "reasons": ["mood"]}, 400, "reasons.0"),
        ("/reviews/{id}/verdict", {"verdict": "reject", "why": "x"}, 400, "why is not a parameter"),
        ("/reviews/{id}/verdict", {"verdict": "choose", "candidate": 99}, 400, "candidate 99"),
        ("/reviews/review-none/claim", {}, 404, "there is no review review-none"),
    ],
)
async def test_what_does_not_fit_is_named(held: Any, path: str, body: Any, status: int, said: str) -> None:
    async with held() as gateway:
        _, review_id = await asked(gateway)
        anna = Reviewer(gateway, "anna")
        await anna.post(f"/reviews/{review_id}/claim")
        answer = await anna.post(path.format(id=review_id), body)
        assert answer.status_code == status
        assert said in answer.json()["error"]["message"]
        bad = await anna.get("/reviews", limit=0)
        assert (bad.status_code, bad.json()["error"]["param"]) == (400, "limit")


async def test_what_operators_did_is_told_and_cannot_be_changed(held: Any, store_url: str) -> None:
    async with held() as gateway:
        _, review_id = await asked(gateway)
        anna = Reviewer(gateway, "anna")
        await anna.post(f"/reviews/{review_id}/claim")
        await anna.post(
            f"/reviews/{review_id}/verdict", {"verdict": "edit", "text": "Anna's words.", "reasons": ["brevity"]}
        )
        await Reviewer(gateway, "bob").post(f"/reviews/{review_id}/claim")
    engine = await open_database(store_url)
    async with engine.connect() as connection:
        told = [
            tuple(row)
            for row in await connection.execute(text("select actor, action, subject from actions order by id"))
        ]
        details = (await connection.execute(text("select details from actions where action = 'verdict'"))).scalar_one()
    assert told == [("anna", "claim", review_id), ("anna", "verdict", review_id)]
    # Words of a person go with the ticket when it is deleted, and so are not repeated here.
    assert "Anna's words." not in str(details)
    for statement in ("update actions set actor = 'bob'", "delete from actions"):
        with pytest.raises(DBAPIError, match="what operators did is not changed"):
            async with engine.begin() as connection:
                await connection.execute(text(statement))
    await engine.dispose()


async def test_a_promise_that_cannot_be_kept_is_not_made(held: Any, store_url: str) -> None:
    async with held() as gateway:
        engine = await open_database(store_url)
        async with engine.begin() as connection:
            await connection.execute(text("drop table reviews"))
        await engine.dispose()
        refused = await gateway.ask()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
        assert refused.headers["retry-after"] == "5"
        assert gateway.registry.get_sample_value("winnow_history_write_failures_total") == 1


async def test_an_answer_that_is_sent_anyway_says_that_its_review_was_not_kept(held: Any, store_url: str) -> None:
    async with held(profile="demo") as gateway:
        assert (await gateway.ask()).json()["rerank"]["review_id"] is not None
        engine = await open_database(store_url)
        async with engine.begin() as connection:
            await connection.execute(text("drop table reviews"))
        await engine.dispose()
        rerank = (await gateway.ask()).json()["rerank"]
        assert (rerank["review_id"], rerank["degraded"]) == (None, "review_not_kept")


async def test_a_fallback_message_promises_a_person_too(held: Any) -> None:
    async with held() as gateway:
        gateway.scorer.probability = lambda score: 0.01
        _, review_id = await asked(gateway)
        ticket = (await Reviewer(gateway, "anna").get(f"/reviews/{review_id}")).json()
        assert ticket["reason"] == "fallback"


async def test_without_a_store_nothing_waits(start_gateway: Any) -> None:
    async with start_gateway(profile="demo", store={"url": "none"}) as gateway:
        answer = await Reviewer(gateway, "anna").get("/reviews")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_store")


async def test_the_backlog_and_its_age_are_metrics(held: Any, store_url: str) -> None:
    metrics = Metrics(CollectorRegistry())

    async def until(count: int) -> None:
        async with asyncio.timeout(10):
            while metrics.registry.get_sample_value("winnow_open_review_requests") != count:
                await asyncio.sleep(0.02)

    async with held() as gateway:
        engine = await open_database(store_url)
        measuring = asyncio.create_task(measure_backlog(Reviews(engine), metrics, 0.05))
        _, review_id = await asked(gateway)
        await asked(gateway)
        await until(2)
        oldest = metrics.registry.get_sample_value("winnow_review_oldest_seconds")
        assert oldest is not None
        assert oldest >= 0
        anna = Reviewer(gateway, "anna")
        await anna.post(f"/reviews/{review_id}/claim")
        await anna.post(f"/reviews/{review_id}/verdict", {"verdict": "reject"})
        await until(1)
        measuring.cancel()
        await asyncio.gather(measuring, return_exceptions=True)
        await engine.dispose()


async def test_what_a_reviewer_writes_is_redacted_as_the_settings_say(start_gateway: Any, store_url: str) -> None:
    # Seven digits can be dialled in Germany, which the default names, and not in the United States.
    written = {"text": "Please call 581 2345.", "note": "asked to call 581 2345, or a@b.org"}
    async with start_gateway(store={"url": store_url, "phone_regions": ["US"]}) as gateway:
        gateway.scorer.probability = lambda score: 0.45
        anna, (_, review_id) = Reviewer(gateway, "anna"), await asked(gateway)
        await anna.post(f"/reviews/{review_id}/claim")
        decided = (await anna.post(f"/reviews/{review_id}/verdict", {"verdict": "edit", **written})).json()
    assert decided["text"] == "Please call 581 2345."
    assert decided["note"] == "asked to call 581 2345, or [email]"
