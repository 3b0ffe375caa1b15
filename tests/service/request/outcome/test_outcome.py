"""What is decided about each reply, and what is sent: by hand, without HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from routing.router import RouteDecision
from routing.rules import TextRule
from service.errors import DeadlineMissed, ScorerUnavailable
from service.identity import Identity
from service.request.candidate import Candidate
from service.request.outcome.outcome import conclude, passed_through, with_greedy
from service.request.plan import Plan, make_plan
from service.request.pool import Pool
from service.request.schemas import ChatRequest
from service.settings import PolicySettings, RouteSettings

POLICY = PolicySettings(url="http://127.0.0.1:1", model="small")
WIRE = TextRule(name="wire", keywords=("wire transfer",))
SEND = {"on_review": "send", "on_fallback": "send"}


def plan_of(text: Any = "I was charged twice", route: dict[str, Any] | None = None, **fields: Any) -> Plan:
    settings = RouteSettings(n=2, **(route or {}))
    body = {"model": "winnow", "messages": [{"role": "user", "content": text}], **fields}
    decision, acme = RouteDecision("billing", True, 0.9), Identity("acme", "client")
    return make_plan(ChatRequest.model_validate(body), acme, decision, settings, POLICY)


def reply(index: int, score: float, probability: float, content: str = "Call us.", **fields: Any) -> Candidate:
    fields = {"finish_reason": "stop", "completion_tokens": 3, **fields}
    return Candidate(index, content, score=score, probability=probability, **fields)


def call(arguments: str) -> dict[str, Any]:
    return {"function": {"name": "pay", "arguments": arguments}}


def pool_of(*candidates: Candidate, **fields: Any) -> Pool:
    selection = {"n": len(candidates), "stopping_rule": "all_scored"}
    calibrator = {"id": "fake@1/platt", "event": "acceptable", "labels": 200, "selection": selection}
    return Pool(candidates, "fake@1", calibrator, **fields)


def test_each_choice_is_decided_and_the_answer_is_as_good_as_the_worst() -> None:
    pool = pool_of(reply(0, 2.0, 0.9), reply(1, 1.0, 0.05))
    outcome = conclude(plan_of(n=2), pool)
    assert [(c.decision, c.sent) for c in outcome.choices] == [("accept", "winner"), ("fallback", "fallback")]
    assert (outcome.decision, outcome.sent, outcome.promised) == ("fallback", "winner", True)
    sending = conclude(plan_of(n=2, route=SEND), pool)
    assert [c.sent for c in sending.choices] == ["winner", "winner"]
    assert (sending.decision, sending.promised) == ("fallback", False)


def test_a_route_that_bears_a_risk_accepts_from_the_checkpoints_threshold_on() -> None:
    plan = plan_of(route={"accept_threshold": "risk:0.05"})
    for threshold, expected in (
        (0.8, ("accept", None)),
        (0.9, ("review", "probability")),
        (None, ("review", "no_threshold")),
    ):
        pool = pool_of(reply(0, 2.0, 0.85), reply(1, 1.0, 0.05))
        assert pool.calibrator is not None
        pool.calibrator["risk"] = {"alpha": 0.05, "delta": 0.05, "threshold": threshold}
        outcome = conclude(plan, pool)
        assert (outcome.decision, outcome.reason) == expected
    strict = plan_of(route={"accept_threshold": "risk:0.05"}, rerank={"accept_threshold": 0.9})
    pool = pool_of(reply(0, 2.0, 0.85), reply(1, 1.0, 0.05))
    assert pool.calibrator is not None
    pool.calibrator["risk"] = {"alpha": 0.05, "delta": 0.05, "threshold": 0.8}
    assert conclude(strict, pool).reason == "probability"


def test_a_flagged_second_choice_is_held() -> None:
    pool = pool_of(reply(0, 2.0, 0.9), reply(1, 1.0, 0.9, "Send a wire transfer."))
    outcome = conclude(plan_of(n=2, route={"red_flags": (WIRE,)}), pool)
    assert [(c.decision, c.sent) for c in outcome.choices] == [("accept", "winner"), ("review", "held")]
    assert (outcome.decision, outcome.reason) == ("review", "red_flag:wire")


def test_without_the_winner_the_lesser_choices_are_not_sent_either() -> None:
    pool = pool_of(reply(0, 2.0, 0.5), reply(1, 1.0, 0.9))
    outcome = conclude(plan_of(n=2), pool)
    assert [(c.decision, c.sent) for c in outcome.choices] == [("review", "held")]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.7},
        {"rerank": {"temperature": 2.0}},
        {"top_p": 0.5},
        {"min_p": 0.2},
        {"max_tokens": 20},
        {"max_completion_tokens": 161},
        {"top_k": 5},
        {"frequency_penalty": 1.5},
        {"stop": ["."]},
    ],
)
def test_a_request_that_changes_the_selection_is_never_accepted(fields: dict[str, Any]) -> None:
    pool = pool_of(reply(0, 2.0, 0.99), reply(1, 1.0, 0.9))
    assert conclude(plan_of(), pool).decision == "accept"
    outcome = conclude(plan_of(**fields), pool)
    assert (outcome.decision, outcome.degraded) == ("review", "calibration_mismatch")


def test_another_system_text_policy_or_revision_is_a_mismatch() -> None:
    messages = [{"role": "system", "content": "Promise refunds."}, {"role": "user", "content": "I was charged twice"}]
    pool = pool_of(reply(0, 2.0, 0.99), reply(1, 1.0, 0.9))
    assert conclude(plan_of(messages=messages), pool).degraded == "calibration_mismatch"
    discarded = plan_of(messages=messages, route={"on_client_system": "replace"})
    assert conclude(discarded, pool).decision == "accept"
    for recorded in ({"policy": "large"}, {"policy_revision": "2"}, {"instructions": "0" * 16}):
        assert pool.calibrator is not None
        fitted = pool.calibrator | {"selection": pool.calibrator["selection"] | recorded}
        other = Pool(pool.candidates, "fake@1", fitted)
        assert conclude(plan_of(), other).degraded == "calibration_mismatch"


def test_an_empty_reply_never_wins_and_is_never_accepted() -> None:
    pool = pool_of(Candidate(0, "", "thinking", finish_reason="length"), reply(1, -3.0, 0.9))
    assert (conclude(plan_of(), pool).winner, pool.stop_reason) == (pool.candidates[1], "all_scored")
    empty = pool_of(*(Candidate(i, " ", "thinking", finish_reason="length") for i in range(2)))
    outcome = conclude(plan_of(), empty)
    assert (outcome.decision, outcome.degraded, outcome.sent) == ("fallback", "empty", "fallback")
    sent = conclude(plan_of(route=SEND), empty)
    assert (sent.decision, sent.degraded, sent.sent) == ("fallback", "empty", "winner")


@pytest.mark.parametrize(
    "candidate",
    [
        reply(0, 1.0, 0.9, "A wire  Transfer."),
        reply(
            0, 1.0, 0.9, "", tool_calls=[{"function": {"name": "pay", "arguments": '{"by": "wire \\u0074ransfer"}'}}]
        ),
        reply(0, 1.0, 0.9, "", tool_calls=[{"function": {"name": "pay", "arguments": '{"wire transfer": tru'}}]),
        reply(0, 1.0, 0.9, "Fine.", reasoning="Offer a wire transfer."),
    ],
)
def test_flags_read_all_that_the_client_would_get(candidate: Candidate) -> None:
    outcome = conclude(plan_of(route={"red_flags": (WIRE,)}), pool_of(candidate))
    assert (outcome.decision, outcome.reason) == ("review", "red_flag:wire")


@pytest.mark.parametrize(
    "content",
    [
        "x " * 2_000 + "my wire transfer " + "y " * 2_000,
        [{"type": "text", "text": "hello"}, {"type": "text", "text": "the wire transfer"}],
    ],
)
def test_flags_read_all_that_the_user_said(content: Any) -> None:
    outcome = conclude(plan_of(content, route={"red_flags": (WIRE,)}), pool_of(reply(0, 1.0, 0.9)))
    assert outcome.reason == "red_flag:wire"


def test_early_turns_are_read_too() -> None:
    turns = ["a wire transfer", *(f"and {n}?" for n in range(6))]
    messages = [{"role": "user", "content": turn} for turn in turns]
    plan = plan_of(messages=messages, route={"red_flags": (WIRE,)})
    assert conclude(plan, pool_of(reply(0, 1.0, 0.9))).reason == "red_flag:wire"
    assert passed_through(plan, Candidate(0, "ok", finish_reason="stop")).reason == "red_flag:wire"


def test_a_fallback_answered_greedily() -> None:
    plan = plan_of(route={"on_fallback": "greedy", "red_flags": (WIRE,)})
    outcome = conclude(plan, pool_of(reply(0, 1.0, 0.1), reply(1, 0.0, 0.1)))
    assert outcome.wants_greedy(plan)
    sent = with_greedy(plan, outcome, Candidate(2, "Greedy.", finish_reason="stop"))
    assert (sent.sent, sent.decision) == ("greedy", "fallback")
    flagged = with_greedy(plan, outcome, Candidate(2, "By wire transfer.", finish_reason="stop"))
    assert (flagged.sent, flagged.decision, flagged.reason) == ("held", "review", "red_flag:wire")
    for nothing in (None, Candidate(2, "", finish_reason="stop")):
        failed = with_greedy(plan, outcome, nothing)
        assert (failed.sent, failed.degraded) == ("fallback", "greedy_failed")


def test_without_any_score() -> None:
    finished = Candidate(0, "Call us.", finish_reason="stop", finished_at=1.0)
    running = Candidate(1, "Ca")
    late = Pool((finished, running), timed_out=True)
    assert (conclude(plan_of(), late).decision, conclude(plan_of(), late).degraded) == ("review", "unscored")
    down = Pool((finished, running), scorer_error=ScorerUnavailable("gone"))
    assert conclude(plan_of(), down).sent == "fallback"
    assert conclude(plan_of(route={"on_scorer_failure": "first_candidate"}), down).sent == "winner"
    with pytest.raises(ScorerUnavailable):
        conclude(plan_of(route={"on_scorer_failure": "error"}), down)
    nothing = Pool((running,), timed_out=True)
    assert (conclude(plan_of(), nothing).sent, conclude(plan_of(), nothing).degraded) == ("fallback", "deadline")
    with pytest.raises(DeadlineMissed):
        conclude(plan_of(route={"on_timeout": "error"}), nothing)
