"""Who sees an answer: always what is held, of what is sent the share that the route names; the chance is kept."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from service.errors import ScorerUnavailable, SetupError
from service.settings import load_settings
from service.store.database import open_database
from service.store.tables import responses, reviews

SENT = {"on_review": "send", "on_fallback": "send"}


async def _kept(url: str, wait_for: int) -> tuple[list[Any], list[Any]]:
    engine = await open_database(url)
    try:
        for _ in range(100):
            async with engine.connect() as connection:
                answers = (await connection.execute(select(responses))).mappings().all()
                tickets = (await connection.execute(select(reviews))).mappings().all()
            if len(answers) >= wait_for:
                break
            await asyncio.sleep(0.05)
        return list(answers), list(tickets)
    finally:
        await engine.dispose()


@pytest.mark.parametrize(
    ("probability", "route", "chance", "share"),
    [
        (0.9, {"spot_check": 0.3}, 0.3, 0.3),
        (0.1, {"spot_check": 0.3}, 0.3, 0.3),
        (0.45, {"review_share": 0.4}, 0.4, 0.4),
        (0.45, {"review_share": 0.4, "on_review": "hold_message"}, 1.0, 1.0),
        (0.9, {}, 0.0, 0.0),
    ],
)
async def test_the_share_that_is_seen_is_the_chance_that_is_kept(
    start_gateway: Any, tmp_path: Any, probability: float, route: dict[str, Any], chance: float, share: float
) -> None:
    url, asked = f"sqlite:///{tmp_path / 'w.db'}", 80
    async with start_gateway(store={"url": url}, routes={"billing": {**SENT, "n": 1, **route}}) as gateway:
        gateway.scorer.calibrator |= {"selection": {"n": 1, "stopping_rule": "all_scored"}}
        gateway.scorer.probability = lambda score: probability
        answers = []
        # Tickets that are promised are written one at a time, each within a time of its own.
        for _ in range(0, asked, 10):
            answers += await asyncio.gather(*(gateway.ask("I was charged twice") for _ in range(10)))
        shown = [answer.json()["rerank"]["review_id"] for answer in answers]
        kept, tickets = await _kept(url, asked)
    assert {row["review_chance"] for row in kept} == {chance}
    assert {ticket["chance"] for ticket in tickets} <= {chance}
    # Within four standard deviations of what the share makes likely.
    assert abs(len(tickets) - asked * share) <= 4 * (asked * share * (1 - share)) ** 0.5
    assert len({ticket["response_id"] for ticket in tickets}) == len(tickets)
    promised = probability == 0.45
    assert sum(name is not None for name in shown) == (len(tickets) if promised else 0)


@pytest.mark.parametrize(
    ("flags", "question", "decision", "reason"),
    [
        ([{"name": "wire", "keywords": ["wire transfer"]}], "I was charged twice", "review", "red_flag:wire"),
        ([{"name": "law", "pattern": r"\blawyer"}], "I was charged twice, my Lawyer says", "review", "red_flag:law"),
        ([{"name": "law", "pattern": r"\blawyer"}], "I was charged twice", "accept", None),
    ],
)
async def test_a_red_flag_in_question_or_reply_asks_a_person_and_names_its_rule(
    start_gateway: Any, tmp_path: Any, script: Any, flags: Any, question: str, decision: str, reason: str | None
) -> None:
    url = f"sqlite:///{tmp_path / 'w.db'}"
    route = {"early_accept": True, "red_flags": flags}
    async with start_gateway(store={"url": url}, routes={"billing": route}) as gateway:
        gateway.scorer.calibrator |= {"selection": {"n": 8, "stopping_rule": "early_accept(0.6)"}}
        gateway.policy.answer = lambda body, number: script(["Make a wire\n transfer ", f"now, {number}"])
        shown = (await gateway.ask(question)).json()["rerank"]
        assert shown["decision"] == decision, "nor is it accepted early"
        _, tickets = await _kept(url, 1)
    assert [ticket["reason"] for ticket in tickets] == ([reason] if reason else [])


@pytest.mark.parametrize(
    ("route", "down", "sent"),
    [
        ({"on_scorer_failure": "first_candidate"}, True, "A person will check"),
        ({"on_scorer_failure": "first_candidate", "on_review": "send"}, True, "Make a wire transfer"),
        ({"on_fallback": "greedy"}, False, "A person will check"),
        ({"on_fallback": "greedy", "on_review": "send"}, False, "greedy: make a wire transfer"),
    ],
)
async def test_what_nobody_scored_is_flagged_too(
    start_gateway: Any, tmp_path: Any, script: Any, route: dict[str, Any], down: bool, sent: str
) -> None:
    url = f"sqlite:///{tmp_path / 'w.db'}"
    flagged = {"red_flags": [{"name": "wire", "keywords": ["wire transfer"]}], **route}

    def answer(body: dict[str, Any], number: int) -> Any:
        # With scores, only the greedy answer is flagged.
        text = "Make a wire transfer" if down else "Wait a day"
        return script(["greedy: make a wire transfer" if body["temperature"] == 0 else text])

    async with start_gateway(store={"url": url}, routes={"billing": flagged}) as gateway:
        gateway.policy.answer = answer
        gateway.scorer.probability = lambda score: 0.01
        real = gateway.scorer.score

        async def score(*arguments: Any, **options: Any) -> Any:
            if down:
                raise ScorerUnavailable("the scorer is away")
            return await real(*arguments, **options)

        gateway.scorer.score = score
        body = (await gateway.ask()).json()
        assert body["rerank"]["decision"] == "review"
        assert sent in body["choices"][0]["message"]["content"]
        _, (ticket,) = await _kept(url, 1)
    assert ticket["reason"] == "red_flag:wire"


async def test_an_ensemble_that_disagrees_asks_a_person(start_gateway: Any, tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'w.db'}"
    async with start_gateway(store={"url": url}, routes={"billing": {"max_disagreement": 0.5}}) as gateway:
        gateway.scorer.disagreement = lambda score: 0.7
        shown = (await gateway.ask()).json()["rerank"]
        assert shown["decision"] == "review"
        assert shown["candidates"][0]["disagreement"] == 0.7
        _, (ticket,) = await _kept(url, 1)
    assert ticket["reason"] == "disagreement"


def test_two_flags_of_one_name_and_a_bad_pattern_are_refused(tmp_path: Any) -> None:
    for flags, said in (
        ([{"name": "a", "keywords": ["x"]}, {"name": "a", "keywords": ["y"]}], "two rules go by the name 'a'"),
        ([{"name": "a", "pattern": "(?=x)"}], "not a regular expression of RE2"),
    ):
        with pytest.raises(SetupError, match=said):
            load_settings(routes={"billing": {"red_flags": flags}})
