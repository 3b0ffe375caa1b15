"""Selects the winner. Pure: candidates in, an order out."""

from __future__ import annotations

from collections.abc import Iterable

from service.request.candidate import Candidate

TIE = 1e-6


def ranked(candidates: Iterable[Candidate], *, length_cut_loses: bool) -> list[Candidate]:
    """The scored candidates, best first.

    An empty reply comes after every other. If `length_cut_loses`, a candidate that was cut off by its token limit
    comes after all that ended. Then a higher score wins; within `TIE` of the best remaining score, the fewer tokens do.
    """
    remaining = [candidate for candidate in candidates if candidate.score is not None]
    order: list[Candidate] = []
    while remaining:
        classes = [_class(candidate, length_cut_loses) for candidate in remaining]
        leaders = [candidate for candidate, its in zip(remaining, classes, strict=True) if its == min(classes)]
        best = max(_score(candidate) for candidate in leaders)
        tied = [candidate for candidate in leaders if _score(candidate) >= best - TIE]
        winner = min(tied, key=lambda candidate: (candidate.completion_tokens, candidate.index))
        order.append(winner)
        remaining.remove(winner)
    return order


def _class(candidate: Candidate, length_cut_loses: bool) -> tuple[bool, bool]:
    """What no score makes up for."""
    return candidate.empty, length_cut_loses and candidate.finish_reason == "length"


def _score(candidate: Candidate) -> float:
    assert candidate.score is not None
    return candidate.score
