"""Selects the winner among candidates."""

from __future__ import annotations

from collections.abc import Iterable

from reward_model.selection import Contender, ranking
from service.request.candidate import Candidate


def ranked(candidates: Iterable[Candidate], *, length_cut_loses: bool) -> list[Candidate]:
    """The scored candidates, best first. `length_cut_loses`: one that its token limit cut off comes after all that
    ended."""
    scored = sorted((c for c in candidates if c.score is not None), key=lambda candidate: candidate.index)
    contenders = [
        Contender(candidate.score, candidate.completion_tokens, candidate.empty, cut)
        for candidate in scored
        for cut in [length_cut_loses and candidate.finish_reason == "length"]
        if candidate.score is not None
    ]
    return [scored[place] for place in ranking(contenders)]
