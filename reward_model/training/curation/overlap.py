"""Pairs that are there twice, and prompts that stand on both sides of a split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from reward_model.labels import Pair
from reward_model.text.formatting import Formatter
from reward_model.training.curation.duplicates import Texts, clusters, near_duplicates, similarity
from reward_model.training.fit.truncation import is_equal

# Named in the report; the counts are over all.
_EXAMPLES = 20


def prompt_clusters(texts: Sequence[Texts], least: float) -> list[int]:
    """A number for each pair, equal where the prompts are the same, or alike by `least` or more."""
    numbers: dict[tuple[str, str], int] = {}
    mine = [numbers.setdefault(text.prompt, len(numbers)) for text in texts]
    found = near_duplicates([rest for _, rest in numbers], [system for system, _ in numbers], least)
    cluster = list(range(len(numbers)))
    for members in clusters(len(numbers), list(found)):
        for member in members:
            cluster[member] = members[0]
    return [cluster[number] for number in mine]


def duplicates(
    pairs: Sequence[Pair], texts: Sequence[Texts], alike: Sequence[int], places: Sequence[str], least: float
) -> dict[str, Any]:
    """Copies of a pair, contradictions among them, and pairs that are nearly the same.

    `copies` counts rows beyond the first of each pair; `contradictions`, pairs whose copies name different
    winners; `near`, pairs whose prompts, and either reply, are alike by `least` but not equal. `alike` numbers the
    prompts as `prompt_clusters` does, `places` says where each pair stands.
    """
    by_key: dict[tuple[str, ...], list[int]] = defaultdict(list)
    ids: dict[str, list[int]] = defaultdict(list)
    for row, (pair, text) in enumerate(zip(pairs, texts, strict=True)):
        by_key[text.key].append(row)
        ids[pair.id].append(row)
    copies = [rows for rows in by_key.values() if len(rows) > 1]
    torn = [rows for rows in copies if len({verdict(pairs[row], texts[row]) for row in rows}) > 1]
    near = _near_pairs(texts, [rows[0] for rows in by_key.values()], alike, least)
    repeated = [rows for rows in ids.values() if len(rows) > 1]
    same = [[row] for row, text in enumerate(texts) if text.chosen == text.rejected]
    empty = [[row] for row, text in enumerate(texts) if not text.chosen]
    return {
        "copies": sum(len(rows) - 1 for rows in copies),
        "contradictions": len(torn),
        "near": len(near),
        "repeated_ids": len(repeated),
        "identical_replies": len(same),
        "empty_winners": len(empty),
        "examples": {
            "copies": _shown(copies, places),
            "contradictions": _shown(torn, places),
            "near": _shown(near, places),
            "repeated_ids": _shown(repeated, places),
            "identical_replies": _shown(same, places),
            "empty_winners": _shown(empty, places),
        },
    }


def leakage(
    pairs: Sequence[Pair], texts: Sequence[Texts], alike: Sequence[int], splits: Sequence[str], places: Sequence[str]
) -> dict[str, Any]:
    """Groups, prompts and near-duplicate prompts that stand in two splits; `splits` names each pair's.

    A near-duplicate is counted between different prompts of different groups only.
    """
    groups = _leaking([pair.group for pair in pairs], splits)
    prompts = _leaking([text.prompt for text in texts], splits)
    near = [
        rows
        for rows in _leaking(alike, splits)
        if len({pairs[row].group for row in rows}) > 1 and len({texts[row].prompt for row in rows}) > 1
    ]
    return {
        "splits": dict(Counter(splits)),
        "groups": len(groups),
        "prompts": len(prompts),
        "near_prompts": len(near),
        "examples": {
            "groups": _shown(groups, places),
            "prompts": _shown(prompts, places),
            "near_prompts": _shown(near, places),
        },
    }


def equal_after_truncation(
    pairs: Sequence[Pair], places: Sequence[str], formatter: Formatter | None
) -> dict[str, Any] | None:
    """Pairs whose replies are the same tokens to a model, and the tokens that it reads; None without a model."""
    if formatter is None:
        return None
    rule = formatter.rule
    equal = [[row] for row, pair in enumerate(pairs) if is_equal(pair, formatter)]
    return {
        "max_prompt_tokens": rule.max_prompt_tokens,
        "max_completion_tokens": rule.max_completion_tokens,
        "equal_after_truncation": len(equal),
        "examples": {"equal_after_truncation": _shown(equal, places)},
    }


def verdict(pair: Pair, text: Texts) -> str | None:
    """The reply that won; None for a tie."""
    return None if pair.outcome == "tie" else text.chosen


def _leaking(keys: Iterable[Hashable], splits: Sequence[str]) -> list[list[int]]:
    """One row of each split for the keys that are in more than one."""
    seen: dict[Hashable, dict[str, int]] = defaultdict(dict)
    for row, (key, split) in enumerate(zip(keys, splits, strict=True)):
        seen[key].setdefault(split, row)
    return [list(rows.values()) for rows in seen.values() if len(rows) > 1]


def _near_pairs(texts: Sequence[Texts], rows: Sequence[int], alike: Sequence[int], least: float) -> list[list[int]]:
    """Of `rows`, which are different pairs, every two whose prompts and whose replies are nearly the same."""
    crowded = Counter(alike[row] for row in rows)
    rows = [row for row in rows if crowded[alike[row]] > 1]
    both = [texts[row].replies for row in rows]
    found = near_duplicates(["\n".join(replies) for replies in both], [alike[row] for row in rows], least)
    return [
        [rows[left], rows[right]]
        for left, right in found
        # A long reply that both have must not hide that the other one differs.
        if all(similarity(a, b) >= least for a, b in zip(both[left], both[right], strict=True))
    ]


def _shown(found: Sequence[Sequence[int]], places: Sequence[str]) -> list[list[str]]:
    return [[places[row] for row in rows] for rows in found[:_EXAMPLES]]
