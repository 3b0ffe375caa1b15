"""Which of several scored replies wins. Pure; serving and calibration both select by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

# Scores closer than this are equal: rounding may part them.
TIE = 1e-6


class Contender(NamedTuple):
    """What selection looks at: `cut` says that the token limit ended the reply, and that this counts against it."""

    score: float
    tokens: int
    empty: bool = False
    cut: bool = False


def ranking(contenders: Sequence[Contender]) -> Iterator[int]:
    """Places of the contenders, best first.

    An empty reply comes after every other, one that was cut off after all that ended. Then a higher score wins; within
    `TIE` of the best remaining score, the fewer tokens do, and then the earlier place.
    """
    remaining = list(range(len(contenders)))
    while remaining:
        classes = {place: (contenders[place].empty, contenders[place].cut) for place in remaining}
        leaders = [place for place in remaining if classes[place] == min(classes.values())]
        best = max(contenders[place].score for place in leaders)
        tied = [place for place in leaders if contenders[place].score >= best - TIE]
        winner = min(tied, key=lambda place: (contenders[place].tokens, place))
        remaining.remove(winner)
        yield winner
