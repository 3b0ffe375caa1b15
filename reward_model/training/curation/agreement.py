"""Annotators: how far each agrees with the others, whether that drifts, and how far they agree by bucket."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_model.estimates import wilson
from reward_model.labels import Pair, Vote
from reward_model.training.curation.duplicates import texts


@dataclass(frozen=True)
class _Judged:
    """One vote against the pair's outcome, and against the other annotators' majority where they have one."""

    vote: Vote
    with_outcome: bool
    with_majority: bool | None
    for_first: bool | None

    @property
    def agrees(self) -> bool:
        """With the others, where they have a majority; else with the outcome."""
        return self.with_outcome if self.with_majority is None else self.with_majority


def majority(votes: Sequence[str]) -> str | None:
    """The vote that more annotators gave than any other; None where two lead, or nobody voted."""
    ranked = Counter(votes).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def annotator_figures(pairs: Sequence[Pair]) -> dict[str, Any]:
    """By annotator: votes, agreement with the outcome and with the others' majority, the side shown first, drift.

    The majority leaves the annotator's own vote out: counted in, it would agree with itself. `first_picked` is
    the share of votes for the reply shown first, of the votes for one side. Sorted by name.
    """
    judged: dict[str, list[_Judged]] = defaultdict(list)
    for pair in pairs:
        outcome = "tie" if pair.outcome == "tie" else "chosen"
        for place, vote in enumerate(pair.annotators):
            others = majority([other.vote for i, other in enumerate(pair.annotators) if i != place])
            decided = vote.vote != "tie" and pair.shown_first is not None
            judged[vote.id].append(
                _Judged(
                    vote,
                    with_outcome=vote.vote == outcome,
                    with_majority=None if others is None else vote.vote == others,
                    for_first=vote.vote == pair.shown_first if decided else None,
                )
            )
    return {name: _one_annotator(votes) for name, votes in sorted(judged.items())}


def _one_annotator(votes: list[_Judged]) -> dict[str, Any]:
    dated = sorted((_utc(j.vote.at), j.agrees) for j in votes if j.vote.at is not None)
    return {
        "votes": len(votes),
        "with_outcome": _share([j.with_outcome for j in votes]),
        "with_majority": _share([j.with_majority for j in votes if j.with_majority is not None]),
        "first_picked": _share([j.for_first for j in votes if j.for_first is not None]),
        "drift": _drift([agrees for _, agrees in dated]),
        "by_week": _by_week(dated),
    }


def _share(hits: list[bool]) -> dict[str, Any] | None:
    if not hits:
        return None
    return {"of": len(hits), "share": round(sum(hits) / len(hits), 4), "ci": wilson(sum(hits), len(hits))}


def _drift(agrees: list[bool]) -> dict[str, Any] | None:
    """The first half of the dated votes against the second, in order of time; Fisher's exact test."""
    from scipy.stats import fisher_exact

    if len(agrees) < 2:
        return None
    first, second = agrees[: len(agrees) // 2], agrees[len(agrees) // 2 :]
    table = [[sum(half), len(half) - sum(half)] for half in (first, second)]
    return {
        "first_half": round(sum(first) / len(first), 4),
        "second_half": round(sum(second) / len(second), 4),
        "votes": len(agrees),
        "p_value": float(fisher_exact(table).pvalue),
    }


def _by_week(dated: list[tuple[datetime, bool]]) -> dict[str, Any]:
    weeks: dict[str, list[bool]] = defaultdict(list)
    for at, agrees in dated:
        year, week, _ = at.isocalendar()
        weeks[f"{year}-W{week:02d}"].append(agrees)
    return {week: {"votes": len(hits), "agreement": round(sum(hits) / len(hits), 4)} for week, hits in weeks.items()}


def _utc(at: datetime | None) -> datetime:
    """A time without a zone is taken as UTC, so that all can be compared."""
    assert at is not None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def agreement_by_bucket(pairs: Sequence[Pair]) -> dict[str, Any]:
    """By bucket, and for `all`: of every two annotators of one pair, the share who voted alike; Fleiss' kappa.

    The winner's side is unknown to annotators, so votes are counted for kappa as for the one or the other text,
    told apart by a hash. Counted as chosen and rejected, nearly all would be for `chosen` by construction, and
    kappa would say that they agree by chance.
    """
    tables: dict[str, list[list[int]]] = defaultdict(list)
    for pair in pairs:
        if len(pair.annotators) > 1:
            tables[pair.bucket].append(_counts(pair))
    if not tables:
        return {}
    everything = [row for table in tables.values() for row in table]
    return {name: _agreement(np.array(table)) for name, table in [("all", everything), *sorted(tables.items())]}


def _counts(pair: Pair) -> list[int]:
    """Votes for the text with the lesser hash, for the other, for a tie."""
    votes = Counter(vote.vote for vote in pair.annotators)
    text, sides = texts(pair), [votes["chosen"], votes["rejected"]]
    chosen, rejected = (hashlib.sha256(reply.encode()).digest() for reply in (text.chosen, text.rejected))
    return [*(sides if chosen <= rejected else reversed(sides)), votes["tie"]]


def _agreement(counts: NDArray[np.int64]) -> dict[str, Any]:
    raters = counts.sum(axis=1)
    alike, possible = int((counts * (counts - 1)).sum()) // 2, int((raters * (raters - 1)).sum()) // 2
    return {
        "pairs": len(counts),
        "comparisons": possible,
        "agreement": round(alike / possible, 4),
        "agreement_ci": wilson(alike, possible),
        "kappa": fleiss_kappa(counts),
    }


def fleiss_kappa(counts: NDArray[np.int64]) -> float | None:
    """Fleiss' kappa (1971) of `counts` [items, categories]; None where all votes are of one category.

    Items may differ in their number of votes: each weighs by its comparisons. For two annotators it is
    Scott's pi, near Cohen's kappa.
    """
    raters = counts.sum(axis=1)
    observed = (counts * (counts - 1)).sum() / (raters * (raters - 1)).sum()
    expected = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return None if expected == 1 else round(float((observed - expected) / (1 - expected)), 4)
