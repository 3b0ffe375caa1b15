"""What a stopping rule would have done, on made-up candidates and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from reward_model.calibration import Curve, Selection
from reward_model.errors import BadInput
from reward_model.labels import LabelledReply
from reward_model.stopping import CandidateScores, ExpectedGain, Mark, PartialScores, StoppingRule, Waves
from reward_model.training.calibration.labelled import winners
from reward_model.training.calibration.partial_scores import measure_partial
from reward_model.training.calibration.replay import ENDED, JudgedPool, measure_candidates, replay, trade_off

PROMPTS, N = 200, 4


def made(prompts: int = PROMPTS) -> tuple[list[LabelledReply], np.ndarray, np.ndarray]:
    """Replies, final scores 3 * prompt + 0.5 * partial + noise of 0.3, and partial scores at 32 tokens."""
    random = np.random.default_rng(0)
    partial = random.normal(size=prompts * N) * 2
    hard = np.repeat(random.normal(size=prompts) * 3, N)
    scores = hard + 0.5 * partial + random.normal(size=prompts * N) * 0.3
    # A prompt's difficulty shows in the partial score too.
    return replies(prompts), scores, partial + hard


def replies(prompts: int) -> list[LabelledReply]:
    return [
        LabelledReply(
            id=f"{p}-{i}",
            prompt=[{"role": "user", "content": f"question {p}"}],
            completion=f"reply {i} to question {p}, which goes on for a while",
            acceptable=i == 0,
            annotator="a",
            label="authored",
            bucket="billing",
            selection={"n": N, "rank": None, "policy": "tiny", "temperature": 0.8},
            source="test",
            group=f"g{p}",
        )
        for p in range(prompts)
        for i in range(N)
    ]


def test_a_costlier_rule_stops_more_and_keeps_the_expected_best() -> None:
    rows, scores, partial = made()
    judged = judgement(rows, scores, {32: partial})
    counts = []
    for cost in (0.001, 0.05, 10.0):
        at = replay(StoppingRule(gain=ExpectedGain(cost=cost, marks=(32,))), judged)
        assert set(at.tolist()) <= {ENDED, 32}
        stopped = at != ENDED
        counts.append(int(stopped.sum()))
        kept = ~stopped.reshape(-1, N)
        assert kept.any(axis=1).all()
        assert kept[np.arange(PROMPTS), partial.reshape(-1, N).argmax(1)].all()
        chosen = winners(scores, rows, stopped)
        assert not (chosen & stopped).any()
        assert chosen.sum() == PROMPTS
    assert counts[0] < counts[1] < counts[2] == PROMPTS * (N - 1)


def test_a_mark_that_was_not_measured_is_refused() -> None:
    rows, scores, partial = made()
    with pytest.raises(BadInput, match=r"not measured at \[64\] tokens; there are \[32\]"):
        replay(StoppingRule(gain=ExpectedGain(cost=0.1, marks=(32, 64))), judgement(rows, scores, {32: partial}))


def hand(lengths: list[int], scores: list[float], slope: float = 1.0) -> JudgedPool:
    """One prompt; probabilities are those of a logistic curve."""
    rows = [
        row.model_copy(update={"completion_tokens": length}) for row, length in zip(replies(1), lengths, strict=True)
    ]
    partial = {32: np.array([np.nan if length <= 32 else score for length, score in zip(lengths, scores, strict=True)])}
    marks = [Mark(tokens=32, slope=1.0, deviation=0.1, correlation=0.9, candidates=100)]
    curve = Curve(method="platt", slope=slope, intercept=0.0, labels=100, positives=50)
    spread = CandidateScores(mean=0.0, between=0.0, within=1.0, prompts=100)
    known = PartialScores(marks=marks, winner_deviation=1.0, prompts=100)
    return JudgedPool(rows, np.array(scores), partial, known, spread, curve)


def test_waves_end_when_another_candidate_is_not_worth_it() -> None:
    rule = StoppingRule(waves=Waves(sizes=(1, 2, 4), cost=0.05))
    # After a score of 3 another one is not expected to bring a twentieth (p = 0.953); after one of 0 it is (0.11).
    assert replay(rule, hand([50] * 4, [3.0, 0, 0, 0])).tolist() == [ENDED, 0, 0, 0]
    assert replay(rule, hand([50] * 4, [0.0, 3, 0, 0])).tolist() == [ENDED, ENDED, 0, 0]
    assert replay(rule, hand([50] * 4, [0.0, 0, 0, 0])).tolist() == [ENDED] * 4


def test_an_early_acceptance_stops_the_rest_where_they_are() -> None:
    rule = StoppingRule(accept_from=0.9)
    judged = hand([80, 40, 20, 120], [9.0, 3.0, 0.0, 9.0])
    assert replay(rule, judged).tolist() == [40, ENDED, ENDED, 40]
    cut = [row.model_copy(update={"finish_reason": "length"}) for row in judged.replies[:2]]
    rows = [*cut, *judged.replies[2:]]
    later = JudgedPool(
        rows, judged.scores, judged.partial, judged.partial_scores, judged.candidate_scores, judged.curve
    )
    # What the limit cut off may yet lose to one that ends.
    assert replay(rule, later).tolist() == [ENDED] * 4


def test_the_parts_of_a_rule_work_together() -> None:
    gain = ExpectedGain(cost=0.05, marks=(32,))
    rule = StoppingRule(gain=gain, waves=Waves(sizes=(2, 4), cost=0.05), accept_from=0.99)
    # The first wave loses its second at the mark and goes on to the next, where the fourth is accepted at 60 tokens.
    judged = hand([50, 90, 90, 60], [0.0, -3.0, 4.0, 5.0])
    assert replay(rule, judged).tolist() == [ENDED, 32, 32, ENDED]
    assert rule.name == "waves(2+4, cost=0.05) expected_gain(cost=0.05, marks=32) early_accept(0.99)"


def test_the_spread_of_candidates_is_found() -> None:
    random = np.random.default_rng(1)
    rows = replies(2000)
    prompts = 1.0 + 2.0 * random.normal(size=(2000, 1))
    spread = measure_candidates(rows, (prompts + 0.5 * random.normal(size=(2000, N))).ravel())
    assert spread.mean == pytest.approx(1.0, abs=4 * 2 / 2000**0.5)
    assert spread.between == pytest.approx(2.0, abs=4 * 2 / 4000**0.5)
    assert spread.within == pytest.approx(0.5, abs=4 * 0.5 / 12000**0.5)
    assert spread.prompts == 2000


def judgement(rows: list[LabelledReply], scores: np.ndarray, partial: dict[int, np.ndarray]) -> JudgedPool:
    known = measure_partial(rows, scores, partial)
    assert known is not None
    curve = Curve(method="platt", slope=1.0, intercept=0.0, labels=100, positives=50)
    timed = [row.model_copy(update={"completion_tokens": 100}) for row in rows]
    return JudgedPool(timed, scores, partial, known, measure_candidates(rows, scores), curve)


def test_what_a_rule_saves_and_costs_by_hand() -> None:
    rows = [row.model_copy(update={"completion_tokens": 100}) for row in replies(3)[:-1]]
    scores = np.array([4.0, 3, 2, 1, 1, 2, 3, 8, 9, 9, 9])
    stopped = np.array([ENDED, 32, 32, 64, ENDED, 0, ENDED, 32, ENDED, ENDED, ENDED])
    assert trade_off(rows, scores, stopped) == {
        # Three of 100 tokens, three of 32, one of 64 and one never begun; the third prompt lacks a candidate.
        "tokens": round((3 * 100 + 3 * 32 + 64) / 800, 4),
        # Winners 4 and 8, then 4 and 3: the mean falls by 2.5, and the deviation of 4 and 8 is 2.8284.
        "loss": round(2.5 / 2.8284271, 4),
        # Nothing was cut off, so the winner has the highest score.
        "loss_of_best": round(2.5 / 2.8284271, 4),
        "agreement": 0.5,
        "acceptable": 0.5,
        "acceptable_of_all": 0.5,
        "cut": 0.0,
        "cut_of_all": 0.0,
    }


def test_a_winner_under_a_rule_needs_all_candidates_judged() -> None:
    rows = replies(2)[:-1]
    scores = np.array([4.0, 3, 2, 1, 9, 8, 7])
    none = np.zeros(7, dtype=bool)
    assert winners(scores, rows, none).tolist() == [True] + [False] * 6
    stopped = none.copy()
    stopped[0] = True
    assert winners(scores, rows, stopped).tolist() == [False, True] + [False] * 5
    assert Selection(n=4).stopping_rule == "all_scored"
