"""Who wins: each case by hand."""

from __future__ import annotations

import pytest

from reward_model.selection import Contender, ranking


@pytest.mark.parametrize(
    ("contenders", "order"),
    [
        ([Contender(1.0, 5), Contender(2.0, 9), Contender(1.5, 1)], [1, 2, 0]),
        # Within 1e-6 of the best the shorter wins, though its score is lower; just beyond, it does not.
        ([Contender(1.0000009, 9), Contender(1.0, 5)], [1, 0]),
        ([Contender(1.0000011, 9), Contender(1.0, 5)], [0, 1]),
        # Ties are taken from the best that remains: the last lies beyond 1e-6 of the first.
        ([Contender(0.0, 3), Contender(0.8e-6, 2), Contender(1.6e-6, 4)], [1, 2, 0]),
        ([Contender(1.0, 5), Contender(1.0, 5)], [0, 1]),
        # No score makes up for a reply that was cut off, nor that for an empty one.
        ([Contender(9.0, 5, cut=True), Contender(-9.0, 5)], [1, 0]),
        ([Contender(9.0, 1, empty=True), Contender(-9.0, 5, cut=True)], [1, 0]),
        ([], []),
    ],
)
def test_the_order(contenders: list[Contender], order: list[int]) -> None:
    assert list(ranking(contenders)) == order
