"""Who wins: by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.request.candidate import Candidate
from service.request.outcome.selection import ranked


def candidate(index: int, score: float | None, tokens: int = 10, finish: str = "stop") -> Candidate:
    return Candidate(index, "A reply.", score=score, completion_tokens=tokens, finish_reason=finish)


def order(candidates: list[Candidate], *, length_cut_loses: bool = True) -> list[int]:
    return [c.index for c in ranked(candidates, length_cut_loses=length_cut_loses)]


def test_higher_scores_come_first_and_unscored_ones_do_not_come() -> None:
    assert order([candidate(0, 0.1), candidate(1, 0.3), candidate(2, None), candidate(3, -2.0)]) == [1, 0, 3]


def test_within_a_millionth_the_fewer_tokens_win() -> None:
    assert order([candidate(0, 1.0, tokens=30), candidate(1, 1.0 - 9e-7, tokens=20)]) == [1, 0]
    assert order([candidate(0, 1.0, tokens=30), candidate(1, 1.0 - 2e-6, tokens=20)]) == [0, 1]


def test_ties_are_measured_from_the_best_not_chained() -> None:
    # 1 is within a millionth of 0, 2 is within one of 1 but not of 0.
    scores = [candidate(0, 1.0, 30), candidate(1, 1.0 - 8e-7, 20), candidate(2, 1.0 - 16e-7, 10)]
    assert order(scores)[0] == 1


def test_a_cut_off_candidate_loses_unless_the_route_says_otherwise() -> None:
    candidates = [candidate(0, 5.0, finish="length"), candidate(1, -5.0)]
    assert order(candidates) == [1, 0]
    assert order(candidates, length_cut_loses=False) == [0, 1]


def test_all_cut_off_are_ranked_by_score() -> None:
    assert order([candidate(0, 1.0, finish="length"), candidate(1, 2.0, finish="length")]) == [1, 0]


def test_equal_in_all_the_first_sample_wins() -> None:
    assert order([candidate(1, 0.0), candidate(0, 0.0)]) == [0, 1]


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=16))
def test_the_winner_is_within_the_tie_of_the_maximum(scores: list[float]) -> None:
    first = ranked([candidate(i, s) for i, s in enumerate(scores)], length_cut_loses=True)[0]
    assert first.score == pytest.approx(max(scores), abs=1e-6)
    assert len(ranked([candidate(i, s) for i, s in enumerate(scores)], length_cut_loses=True)) == len(scores)


def test_an_empty_reply_loses_to_any_other_whatever_its_score() -> None:
    blank = [Candidate(i, text, score=9.0, finish_reason="stop") for i, text in enumerate(["", " \n\t"])]
    called = Candidate(2, "", tool_calls=[{"function": {"name": "refund", "arguments": "{}"}}], score=-9.0)
    cut_off = candidate(3, -10.0, finish="length")
    assert order([*blank, called, cut_off]) == [2, 3, 0, 1]
