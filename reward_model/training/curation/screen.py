"""Which pairs of a recipe's sources may be trained on, and what the votes make of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from reward_model.errors import BadInput
from reward_model.labels import Pair, Split, split_of
from reward_model.training.curation.agreement import majority
from reward_model.training.curation.build_recipe import BuildRecipe
from reward_model.training.curation.duplicates import Texts, texts
from reward_model.training.curation.overlap import prompt_clusters

# In a vote, no reply: both are as good.
_TIE = "\0tie"


@dataclass
class ScreenedPair:
    """A row of a source on its way into the set: `changes` are written over it, `dropped` says why it stays out."""

    source: str
    raw: dict[str, Any]
    pair: Pair
    texts: Texts
    split: Split = "train"
    dropped: str | None = None
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        """What is written."""
        return {**self.raw, **self.changes}

    def drop(self, reason: str) -> None:
        """Leave it out; the first reason stands."""
        self.dropped = self.dropped or reason

    def verdict(self) -> str:
        """The reply that won, or a tie."""
        return _TIE if self.pair.outcome == "tie" else self.texts.chosen

    def votes(self) -> list[str]:
        """What each annotator voted for."""
        sides = {"chosen": self.texts.chosen, "rejected": self.texts.rejected, "tie": _TIE}
        return [sides[vote.vote] for vote in self.pair.annotators]


def candidate(source: str, raw: dict[str, Any], pair: Pair, recipe: BuildRecipe) -> ScreenedPair:
    """A row with its source's defaults, and the split of its group."""
    rules, splits = recipe.sources[source], recipe.splits
    changes: dict[str, Any] = {}
    if pair.label is None and rules.label is not None:
        changes["label"] = rules.label
    if pair.bucket in rules.buckets:
        changes["bucket"] = rules.buckets[pair.bucket]
    if pair.source == "unknown":
        changes["source"] = source
    split = pair.split or split_of(pair.group, (splits.validation, splits.test))
    changed = pair.model_copy(update=changes)
    return ScreenedPair(source, raw, changed, texts(pair), split, changes={**changes, "split": split})


def screen(candidates: Sequence[ScreenedPair], recipe: BuildRecipe) -> None:
    """Drop what cannot be learned from, and let the votes decide the rest.

    Raises BadInput for a group whose pairs name two splits.
    """
    _one_split_a_group(candidates)
    _drop_useless(candidates)
    for copies in copies_of(candidates):
        _settle(copies, recipe)
        if recipe.winner_always_first != "keep" and _winner_always_first(_kept(copies)):
            for one in copies:
                one.drop("winner_always_first")
    _drop_leaking(_kept(candidates), recipe.splits.near_prompts)


def copies_of(candidates: Iterable[ScreenedPair]) -> list[list[ScreenedPair]]:
    """Kept candidates with the same prompt and the same two replies, together."""
    groups: dict[tuple[str, ...], list[ScreenedPair]] = defaultdict(list)
    for one in _kept(candidates):
        groups[one.texts.key].append(one)
    return list(groups.values())


def _kept(candidates: Iterable[ScreenedPair]) -> list[ScreenedPair]:
    return [one for one in candidates if one.dropped is None]


def _one_split_a_group(candidates: Sequence[ScreenedPair]) -> None:
    splits: dict[str, Split] = {}
    for one in candidates:
        if splits.setdefault(one.pair.group, one.split) != one.split:
            raise BadInput(
                f"{one.source}: the group {one.pair.group} is in {splits[one.pair.group]} and in {one.split} (pair "
                f"{one.pair.id}); a group belongs to one split"
            )


def _drop_useless(candidates: Sequence[ScreenedPair]) -> None:
    ids: set[str] = set()
    for one in candidates:
        if one.pair.id in ids:
            one.drop("repeated_id")
        ids.add(one.pair.id)
        if one.pair.label is None:
            one.drop("unlabelled")
        if one.texts.chosen == one.texts.rejected:
            one.drop("identical_replies")
        if not one.texts.chosen:
            one.drop("empty_winner")


def _settle(copies: Sequence[ScreenedPair], recipe: BuildRecipe) -> None:
    """Let all votes on a pair decide: who judged a copy without naming annotators counts as one of them."""
    votes = [vote for one in copies for vote in one.votes() or [one.verdict()]]
    if len(votes) < 2:
        for one in copies:
            strength = one.pair.strength
            if one.pair.outcome == "win" and strength is not None and strength < recipe.agreement.min:
                one.drop("annotators_disagree")
        return
    winner = majority(votes)
    if winner is None or votes.count(winner) / len(votes) < recipe.agreement.min:
        for one in copies:
            one.drop("annotators_disagree")
        return
    for one in copies:
        if winner == _TIE:
            one.pair = one.pair.model_copy(update={"outcome": "tie", "strength": None})
            one.changes |= {"outcome": "tie", "strength": None}
        elif one.verdict() != winner:
            one.drop("votes_against_outcome")
        elif recipe.agreement.soft_labels and one.pair.strength is None:
            one.changes["strength"] = round((votes.count(winner) + votes.count(_TIE) / 2) / len(votes), 4)


def _winner_always_first(copies: Sequence[ScreenedPair]) -> bool:
    """Judged more than once, and each time the winner was shown first: it may have won by its place."""
    return len(copies) > 1 and all(one.pair.outcome == "win" and one.pair.shown_first == "chosen" for one in copies)


def _drop_leaking(candidates: Sequence[ScreenedPair], near: float | None) -> None:
    """A prompt that stands in two splits, under two groups, stays in the one that is held out the most."""
    normal = [one.texts for one in candidates]
    keys: Sequence[Any] = [text.prompt for text in normal] if near is None else prompt_clusters(normal, near)
    order = list(get_args(Split))
    furthest: dict[Any, int] = {}
    for key, one in zip(keys, candidates, strict=True):
        furthest[key] = max(furthest.get(key, 0), order.index(one.split))
    for key, one in zip(keys, candidates, strict=True):
        if order.index(one.split) < furthest[key]:
            one.drop("prompt_in_another_split")


def alternate_order(candidates: Sequence[ScreenedPair]) -> None:
    """Give copies of a pair opposite orders in turn, where none is recorded; what was recorded stays a record."""
    for copies in copies_of(candidates):
        if len(copies) < 2:
            continue
        first_text: str | None = None
        for one in copies:
            if one.pair.shown_first is None:
                # Without a copy before it, the order is drawn by the text itself.
                chosen_first = (
                    first_text != one.texts.chosen if first_text else one.texts.replies[0] == one.texts.chosen
                )
                one.changes["shown_first"] = "chosen" if chosen_first else "rejected"
            side = one.changes.get("shown_first", one.pair.shown_first)
            first_text = one.texts.chosen if side == "chosen" else one.texts.rejected


def to_judge_again(candidates: Sequence[ScreenedPair]) -> list[dict[str, Any]]:
    """The pairs that left because the winner always came first, swapped and without their verdict."""
    swapped: dict[str, Any] = {
        "shown_first": "rejected",
        "label": None,
        "annotators": [],
        "strength": None,
        "outcome": "win",
    }
    return [
        {**one.row, **swapped, "id": f"{one.pair.id}:swapped"}
        for one in candidates
        if one.dropped == "winner_always_first"
    ]
