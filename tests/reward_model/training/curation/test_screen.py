from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reward_model.errors import BadInput
from reward_model.labels import Pair, split_of
from reward_model.training.curation.build_recipe import BuildRecipe
from reward_model.training.curation.screen import ScreenedPair, alternate_order, candidate, screen, to_judge_again

Row = dict[str, Any]
MakeRow = Callable[..., Row]


def _screened(*rows: Row, **recipe: Any) -> list[ScreenedPair]:
    made = BuildRecipe.model_validate({"sources": {"s": {}}, **recipe})
    found = [candidate("s", row, Pair.model_validate(row), made) for row in rows]
    screen(found, made)
    return found


def _reasons(*rows: Row, **recipe: Any) -> list[str | None]:
    return [one.dropped for one in _screened(*rows, **recipe)]


def _votes(*votes: str) -> list[Row]:
    return [{"id": str(i), "vote": vote} for i, vote in enumerate(votes)]


def test_what_teaches_nothing_is_dropped(row: MakeRow) -> None:
    rows = [row("a"), row("a", "x"), row("b", label=None), row("c", "Yes", "yes "), row("d", " ", "x")]
    assert _reasons(*rows) == [None, "repeated_id", "unlabelled", "identical_replies", "empty_winner"]


def test_a_source_may_label_and_rename(row: MakeRow) -> None:
    source = {"s": {"label": "judge", "buckets": {"fraud_report": "fraud"}}}
    first, second = _screened(
        row("a", label=None, bucket="fraud_report"), row("b", bucket="x", source="y"), sources=source
    )
    assert first.row == {**row("a"), "label": "judge", "bucket": "fraud", "source": "s", "split": split_of("a")}
    assert second.row == {**row("b"), "bucket": "x", "source": "y", "split": split_of("b")}


@pytest.mark.parametrize(
    ("votes", "dropped", "strength"),
    [
        (["chosen"], None, None),
        (["chosen", "chosen"], None, 1.0),
        (["chosen", "chosen", "rejected"], None, 0.6667),
        (["chosen", "chosen", "tie"], None, 0.8333),
        (["chosen", "rejected"], "annotators_disagree", None),
        (["chosen", "rejected", "tie"], "annotators_disagree", None),
        (["chosen", "chosen", "rejected", "tie"], "annotators_disagree", None),  # a half, below 0.6
        (["rejected", "rejected", "chosen"], "votes_against_outcome", None),
    ],
)
def test_votes_decide_about_a_win(row: MakeRow, votes: list[str], dropped: str | None, strength: float | None) -> None:
    (one,) = _screened(row("a", annotators=_votes(*votes)))
    assert (one.dropped, one.row.get("strength")) == (dropped, strength)


def test_a_majority_of_ties_makes_a_tie(row: MakeRow) -> None:
    (one,) = _screened(row("a", annotators=_votes("tie", "tie", "chosen"), strength=0.9))
    assert (one.dropped, one.row["outcome"], one.row["strength"], one.pair.outcome) == (None, "tie", None, "tie")


def test_the_threshold_and_the_soft_labels_are_options(row: MakeRow) -> None:
    torn = row("a", annotators=_votes("chosen", "chosen", "rejected"))
    assert _reasons(torn, agreement={"min": 0.7}) == ["annotators_disagree"]
    (one,) = _screened(torn, agreement={"soft_labels": False})
    assert "strength" not in one.row
    (own,) = _screened({**torn, "strength": 0.9})
    assert own.row["strength"] == 0.9


def test_a_recorded_agreement_counts_where_there_are_no_votes(row: MakeRow) -> None:
    rows = [row("a", strength=0.55), row("b", strength=0.67), row("c", meta={"votes": [1, 2]})]
    assert _reasons(*rows) == ["annotators_disagree", None, "annotators_disagree"]


def test_copies_vote_together(row: MakeRow) -> None:
    copies = [row(name, *texts, prompt="x", group="g") for name, texts in (("a", "AB"), ("b", "AB"), ("c", "BA"))]
    found = _screened(*copies)
    assert [one.dropped for one in found] == [None, None, "votes_against_outcome"]
    assert [one.row.get("strength") for one in found[:2]] == [0.6667, 0.6667]
    assert _reasons(*copies[1:]) == ["annotators_disagree"] * 2


def test_a_pair_whose_winner_always_came_first(row: MakeRow) -> None:
    always = [row(name, "A", "B", prompt="x", group="g", shown_first="chosen") for name in "ab"]
    both_ways = [
        row("c", "A", "B", prompt="y", group="g", shown_first="chosen"),
        row("d", "A", "B", prompt="y", group="g", shown_first="rejected"),
    ]
    once = row("e", "A", "B", prompt="z", shown_first="chosen")
    rows = [*always, *both_ways, once]
    assert _reasons(*rows) == ["winner_always_first"] * 2 + [None] * 3
    assert _reasons(*rows, winner_always_first="keep") == [None] * 5
    again = to_judge_again(_screened(*rows, winner_always_first="swap"))
    assert [one["id"] for one in again] == ["a:swapped", "b:swapped"]
    assert {(one["shown_first"], one["label"], one["chosen"], len(one["annotators"])) for one in again} == {
        ("rejected", None, "A", 0)
    }


def test_copies_without_a_recorded_order_get_opposite_ones(row: MakeRow) -> None:
    def orders(*recorded: str | None) -> list[str]:
        rows = [row(str(i), "A", "B", prompt="x", group="g", shown_first=order) for i, order in enumerate(recorded)]
        found = _screened(*rows, winner_always_first="keep")
        alternate_order(found)
        return [one.row["shown_first"] for one in found]

    assert orders("rejected", None, None) == ["rejected", "chosen", "rejected"]
    assert orders("chosen", "chosen", None) == ["chosen", "chosen", "rejected"]
    first, second, third = orders(None, None, None)
    assert first == third != second
    (single,) = _screened(row("a"))
    alternate_order([single])
    assert "shown_first" not in single.row


def test_a_prompt_in_two_splits_stays_in_the_one_held_out_most(row: MakeRow) -> None:
    def asked(split: str, prompt: str, reply: str) -> Row:
        return row(f"{split}{prompt}{reply}", reply, "No", prompt=prompt, split=split, group=f"{split} {prompt}")

    rows = [asked("train", "x", "1"), asked("test", "X", "2"), asked("validation", "x", "3"), asked("train", "y", "4")]
    assert _reasons(*rows) == ["prompt_in_another_split", None, "prompt_in_another_split", None]
    long = "How do I return the coat that I bought from you last week?"
    near = [asked("train", long, "5"), asked("validation", long[:-1], "6")]
    assert _reasons(*near) == [None, None]
    assert _reasons(*near, splits={"near_prompts": 0.8}) == ["prompt_in_another_split", None]


def test_a_group_in_two_splits_is_refused(row: MakeRow) -> None:
    with pytest.raises(BadInput, match="the group g is in train and in test"):
        _screened(row("a", group="g", split="train"), row("b", group="g", split="test"))
