"""Candidates that will not win are cancelled at the policy, and what the probability means then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reward_model.stopping import ExpectedGain, Mark, PartialScores

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
        gateway.scorer.partial_scores = KNOWN
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
        stopping.scorer.partial_scores = None
    if change == "several_choices":
        fields["n"] = 2
    if change == "failing":
        stopping.scorer.partial_scores = KNOWN.model_copy(update={"marks": None})
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
