"""Candidates that will not win are cancelled at the policy, and what the probability means then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reward_model.calibration import Curve
from reward_model.stopping import CandidateScores, ExpectedGain, Mark, PartialScores
from service.upstream.scorer import Stopping

RULE = ExpectedGain(cost=0.05, marks=(2, 4))
ROUTE = {"stop_cost": 0.05, "stop_marks": [2, 4]}
KNOWN = PartialScores(
    marks=[Mark(tokens=t, slope=1.0, deviation=0.1, correlation=0.9, candidates=100) for t in (2, 4)],
    winner_deviation=1.0,
    prompts=50,
)


@pytest.fixture
async def stopping(start_gateway: Any, script: Any) -> Any:
    """Candidate i says its number six times, and its score is the number."""
    async with start_gateway(profile="demo", routes={"billing": ROUTE}) as gateway:
        gateway.policy.answer = lambda body, number: script([f"{number % 8} "] * 6, pause=0.03)
        gateway.scorer.value = lambda text: float(text.split()[0])
        gateway.scorer.stopping = Stopping(partial_scores=KNOWN)
        yield gateway


async def settled(gateway: Any, streams: int) -> None:
    async with asyncio.timeout(5):
        while gateway.policy.finished + gateway.policy.cut_off < streams:
            await asyncio.sleep(0.01)


async def test_the_worse_ones_are_cancelled_and_the_best_one_wins(stopping: Any) -> None:
    response = (await stopping.ask()).json()
    rerank = response["rerank"]
    await settled(stopping, 8)
    assert (stopping.policy.finished, stopping.policy.cut_off) == (1, 7)
    assert (rerank["stop_reason"], rerank["degraded"]) == ("expected_gain", "calibration_mismatch")
    assert (rerank["n_requested"], rerank["n_completed"], rerank["n_scored"]) == (8, 1, 1)
    assert rerank["winner"]["score"] == 7.0
    assert response["choices"][0]["message"]["content"].startswith("7")
    stopped = [candidate for candidate in rerank["candidates"] if candidate.get("stopped")]
    assert len(stopped) == 7
    assert all(c["score"] is None and c["finish_reason"] is None for c in stopped)
    # One call for all at the first mark; alone, the last one needs no second.
    assert [len(call["completions"]) for call in stopping.scorer.partial_calls] == [8, 1]
    assert response["usage"]["completion_tokens"] == sum(c["completion_tokens"] for c in rerank["candidates"])
    assert response["usage"]["completion_tokens"] < 48
    counted = stopping.registry.get_sample_value
    assert counted("winnow_candidates_total", {"route": "billing", "state": "stopped"}) == 7


async def test_a_calibrator_fitted_under_the_rule_may_accept(stopping: Any) -> None:
    stopping.scorer.calibrator["selection"] = {"n": 8, "stopping_rule": RULE.name}
    rerank = (await stopping.ask()).json()["rerank"]
    assert (rerank["decision"], rerank["degraded"]) == ("accept", None)
    assert stopping.scorer.calls[-1]["stopping_rule"] == RULE.name


async def test_a_calibrator_of_the_rule_does_not_accept_where_all_are_scored(start_gateway: Any) -> None:
    async with start_gateway(profile="demo") as gateway:
        gateway.scorer.calibrator["selection"] = {"n": 8, "stopping_rule": RULE.name}
        rerank = (await gateway.ask()).json()["rerank"]
    assert (rerank["decision"], rerank["degraded"]) == ("review", "calibration_mismatch")


async def test_close_candidates_all_go_on(stopping: Any) -> None:
    stopping.scorer.value = lambda text: float(text.split()[0]) / 10_000
    rerank = (await stopping.ask()).json()["rerank"]
    assert (rerank["stop_reason"], rerank["n_scored"]) == ("all_scored", 8)
    # As the rule would have it: it holds for prompts on which it stops nobody, too.
    assert rerank["degraded"] == "calibration_mismatch"


@pytest.mark.parametrize("change", ["unknown", "several_choices", "failing"])
async def test_nobody_is_stopped(stopping: Any, change: str) -> None:
    fields: dict[str, Any] = {}
    if change == "unknown":
        stopping.scorer.stopping = Stopping()
    if change == "several_choices":
        fields["n"] = 2
    if change == "failing":
        stopping.scorer.stopping.partial_scores = KNOWN.model_copy(update={"marks": None})
    response = await stopping.ask(**fields)
    assert response.status_code == 200
    assert response.json()["rerank"]["n_scored"] == 8


async def test_a_candidate_that_breaks_off_does_not_hold_up_the_mark(stopping: Any, script: Any) -> None:
    pieces = stopping.policy.answer
    stopping.policy.answer = lambda body, i: script(["3 "] * 6, pause=0.01, die_after=1) if i == 3 else pieces(body, i)
    rerank = (await stopping.ask()).json()["rerank"]
    assert rerank["winner"]["score"] == 7.0
    assert rerank["stop_reason"] == "candidates_failed"
    assert sum(bool(c.get("stopped")) for c in rerank["candidates"]) == 6


async def test_marks_that_fall_are_refused(start_gateway: Any) -> None:
    from service.errors import SetupError

    with pytest.raises(SetupError, match="token counts that rise"):
        async with start_gateway(routes={"billing": ROUTE | {"stop_marks": [64, 32]}}):
            pass


SURE = Stopping(
    candidate_scores=CandidateScores(mean=0.0, between=0.0, within=1.0, prompts=100),
    curve=Curve(method="platt", slope=1.0, intercept=0.0, labels=100, positives=50),
)
WAVES = {"waves": [2, 4, 8], "wave_cost": 0.05}


@pytest.mark.parametrize(("first", "sampled"), [(3.0, 2), (-1.0, 8)])
async def test_waves_end_when_another_candidate_is_not_worth_it(
    start_gateway: Any, script: Any, first: float, sampled: int
) -> None:
    async with start_gateway(profile="demo", routes={"billing": WAVES}) as gateway:
        gateway.policy.answer = lambda body, number: script([f"{number}"])
        # After a probability of 0.953 another candidate is not expected to bring a twentieth, after one of 0.27 it is.
        gateway.scorer.value = lambda text: first - 0.1 * int(text)
        gateway.scorer.stopping = SURE
        gateway.scorer.calibrator["selection"] = {"n": 8, "stopping_rule": "waves(2+4+8, cost=0.05)"}
        rerank = (await gateway.ask()).json()["rerank"]
        assert len(gateway.policy.bodies) == sampled
    assert (rerank["n_requested"], rerank["n_scored"]) == (8, sampled)
    assert rerank["stop_reason"] == ("all_scored" if sampled == 8 else "expected_gain")
    assert (rerank["decision"], rerank["degraded"]) == ("accept", None)
    assert sum(bool(c.get("stopped")) for c in rerank["candidates"]) == 8 - sampled


async def test_waves_go_on_where_nothing_is_known(start_gateway: Any, script: Any) -> None:
    async with start_gateway(profile="demo", routes={"billing": WAVES}) as gateway:
        rerank = (await gateway.ask()).json()["rerank"]
        assert (rerank["n_scored"], len(gateway.policy.bodies)) == (8, 8)


async def test_the_first_accepted_candidate_ends_it(start_gateway: Any, script: Any) -> None:
    async with start_gateway(profile="demo", routes={"billing": {"early_accept": True}}) as gateway:
        # Candidate i takes i + 1 pieces, and the third is the first that would be accepted.
        gateway.policy.answer = lambda body, i: script([f"{i} "] * (i + 1), pause=0.1)
        gateway.scorer.value = lambda text: float(text.split()[0])
        gateway.scorer.probability = lambda score: 0.9 if score >= 2 else 0.4
        gateway.scorer.calibrator["selection"] = {"n": 8, "stopping_rule": "early_accept(0.6)"}
        response = (await gateway.ask()).json()
        await settled(gateway, 8)
        assert (gateway.policy.finished, gateway.policy.cut_off) == (3, 5)
    rerank = response["rerank"]
    assert (rerank["decision"], rerank["stop_reason"], rerank["degraded"]) == ("accept", "early_accept", None)
    assert (rerank["winner"]["index"], rerank["n_scored"]) == (2, 3)


@pytest.mark.parametrize("why", ["another rule", "cut off"])
async def test_what_may_not_be_accepted_ends_nothing(start_gateway: Any, script: Any, why: str) -> None:
    async with start_gateway(profile="demo", routes={"billing": {"early_accept": True}}) as gateway:
        reason = "length" if why == "cut off" else "stop"
        gateway.policy.answer = lambda body, i: script([f"{i} "], pause=0.02 * i, finish_reason=reason)
        if why == "cut off":
            gateway.scorer.calibrator["selection"] = {"n": 8, "stopping_rule": "early_accept(0.6)"}
        rerank = (await gateway.ask()).json()["rerank"]
    assert (rerank["n_scored"], rerank["stop_reason"]) == (8, "all_scored")
