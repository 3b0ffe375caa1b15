"""Which candidate wins. Pure: candidates in, an order out."""

from __future__ import annotations

from collections.abc import Iterable

from service.request.candidate import Candidate

TIE = 1e-6


def ranked(candidates: Iterable[Candidate], *, length_cut_loses: bool) -> list[Candidate]:
    """The scored candidates, best first.

    A higher score wins; within `TIE` of the best remaining one, the fewer tokens do. Where `length_cut_loses`, a
    candidate that was cut off by its token limit comes after all that ended.
    """
    left = [candidate for candidate in candidates if candidate.score is not None]
    order: list[Candidate] = []
    while left:
        pool = left
        if length_cut_loses:
            pool = [candidate for candidate in left if candidate.finish_reason != "length"] or left
        best = max(_score(candidate) for candidate in pool)
        tied = [candidate for candidate in pool if _score(candidate) >= best - TIE]
        winner = min(tied, key=lambda candidate: (candidate.completion_tokens, candidate.index))
        order.append(winner)
        left.remove(winner)
    return order


def _score(candidate: Candidate) -> float:
    assert candidate.score is not None
    return candidate.score
