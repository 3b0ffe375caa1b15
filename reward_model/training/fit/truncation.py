"""Pairs that truncation makes equal: replies that differ only behind the cut are one sequence to the model.

Such a pair teaches nothing (its margin is exactly zero) and measures nothing (its scores are equal), whoever won.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reward_model.labels import Pair, Split, completions_of
from reward_model.text.formatting import Formatter
from reward_model.training.fit.mixture import Sources


class Distinct(NamedTuple):
    """The pairs of every source whose replies differ after truncation, and how many others were left out of each."""

    sources: Sources
    equal: dict[str, int]


def is_equal(pair: Pair, formatter: Formatter) -> bool:
    """Whether both replies are the same tokens behind the same prompt, after truncation by the formatter's rule."""
    chosen, rejected = map(formatter.full_completion_ids, completions_of(pair))
    if chosen == rejected:
        return True
    # No rule leaves a completion less room than its own limit, so prompts are only read if that does not tell.
    if formatter.cut_completion(chosen) != formatter.cut_completion(rejected):
        return False
    prompt = formatter.full_prompt_ids(pair.prompt)
    return formatter.cut(prompt, chosen) == formatter.cut(prompt, rejected)


def distinct_pairs(pairs: Sequence[Pair], formatter: Formatter) -> list[Pair]:
    """The pairs whose replies the model can tell apart."""
    return [pair for pair in pairs if not is_equal(pair, formatter)]


def distinct_sources(sources: Sources, formatter: Formatter) -> Distinct:
    """The same of every split of every source."""
    kept: Sources = {
        name: {split: distinct_pairs(pairs, formatter) for split, pairs in splits.items()}
        for name, splits in sources.items()
    }
    equal = {name: _count(splits) - _count(kept[name]) for name, splits in sources.items()}
    return Distinct(kept, equal)


def describe(equal: int, total: int) -> str:
    """One sentence for people: how many pairs were left out, why, and what to do."""
    return (
        f"{equal} of {total} pairs are left out: after truncation both replies are the same tokens. Shorten the "
        "replies, or use a model (or a recipe's formatting.max_completion_tokens) with more room"
    )


def _count(splits: dict[Split, list[Pair]]) -> int:
    return sum(map(len, splits.values()))
