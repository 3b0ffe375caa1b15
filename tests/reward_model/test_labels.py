from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reward_model.errors import BadInput
from reward_model.labels import (
    LabelledReply,
    Pair,
    by_split,
    digest,
    pairs_from_labels,
    read_rows,
    split_of,
)

ROW = {"id": "a", "prompt": [{"role": "user", "content": "x"}], "chosen": "c", "rejected": "r", "group": "g"}
LABEL = {"id": "a", "prompt": ROW["prompt"], "completion": "c", "acceptable": True, "group": "g"}


def test_a_pair_needs_only_its_texts_and_its_group() -> None:
    pair = Pair.model_validate(ROW)
    assert (pair.bucket, pair.locale, pair.outcome, pair.risk, pair.margin) == (
        "unknown",
        "en",
        "win",
        "normal",
        None,
    )


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"meta": {"rank_gap": 3}}, 3),
        ({"meta": {"score_chosen": 8.5, "score_rejected": 7.0}}, 1.5),
        ({"meta": {"rank_gap": 3}, "margin": 0.5}, 0.5),
        ({"meta": {"votes": [1, 1, 2]}}, None),
        ({"meta": None}, None),
    ],
)
def test_public_sets_map_onto_the_schema(extra: dict[str, Any], expected: float | None) -> None:
    pair = Pair.model_validate({**ROW, "lang": "zh", "new_key": 1, **extra})
    assert pair.locale == "zh"
    assert pair.margin == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": None}, r"pairs\.jsonl, line 2: chosen"),
        ({"prompt": []}, r"line 2: prompt"),
        ({"prompt": [{"role": "judge", "content": "x"}]}, r"line 2: prompt\.0\.role"),
        ({"group": 5}, "line 2: group"),
        ({"strength": 0.2}, "line 2: strength"),
    ],
)
def test_an_error_names_file_line_and_field(
    jsonl: Callable[[str, list[dict[str, Any]]], Path], change: dict[str, Any], message: str
) -> None:
    path = jsonl("pairs.jsonl", [ROW, {**ROW, **change}])
    with pytest.raises(BadInput, match=message):
        list(read_rows(path, Pair))


def test_a_group_is_in_one_split_and_always_the_same() -> None:
    pairs = [Pair.model_validate({**ROW, "id": str(i), "group": f"g{i % 500}"}) for i in range(2000)]
    splits = by_split(pairs)
    groups = {name: {pair.group for pair in members} for name, members in splits.items()}
    assert sum(len(members) for members in splits.values()) == 2000
    assert not groups["train"] & groups["validation"]
    assert not groups["train"] & groups["test"]
    assert not groups["validation"] & groups["test"]
    # 500 groups at 0.1: five standard deviations are 34.
    assert 16 <= len(groups["test"]) <= 84
    assert 16 <= len(groups["validation"]) <= 84
    # The first 8 bytes of the SHA-256 of "g0", "g5" and "g6", over 2 ** 64: 0.946, 0.139 and 0.017.
    assert [split_of(group) for group in ("g0", "g5", "g6")] == ["train", "validation", "test"]


def test_a_digest_is_of_the_rows_not_of_their_order() -> None:
    first, second = (Pair.model_validate({**ROW, "id": name}) for name in "ab")
    # printf 'a\nb' | sha256sum
    expected = "7e18f737311b2dc3b2f269dd78396b0351f14fb66efa879f768cb23181883c78"
    assert digest([second, first]) == digest([first, second]) == expected
    assert digest([first]) != digest([second])


def _reply(name: str, acceptable: bool, rating: int | None, text: str = "x") -> LabelledReply:
    prompt = [{"role": "user", "content": text}]
    return LabelledReply.model_validate(
        {**LABEL, "id": name, "completion": name, "acceptable": acceptable, "rating": rating, "prompt": prompt}
    )


def test_better_replies_beat_worse_ones_to_the_same_prompt() -> None:
    replies = [
        _reply("good", True, 3),
        _reply("fair", False, 2),
        _reply("bad", False, 1),
        _reply("worse", False, 1),
        _reply("elsewhere", True, 5, "another prompt"),
    ]
    pairs = pairs_from_labels(replies)
    assert {pair.id for pair in pairs} == {"good>fair", "good>bad", "good>worse", "fair>bad", "fair>worse"}
    assert pairs[0].chosen == "good"
    assert (pairs[0].risk, pairs[0].origin.chosen) == ("high", "policy")


def test_labels_become_part_of_the_pair() -> None:
    good, bad = _reply("a", True, 4), _reply("b", False, 2)
    (pair,) = pairs_from_labels([bad, good])
    assert (pair.acceptable.chosen, pair.acceptable.rejected) == (True, False)


def test_a_winner_that_nobody_would_send_does_not_beat_one_that_they_would() -> None:
    for outcome in ("win", "tie"):
        raw = {**ROW, "outcome": outcome, "acceptable": {"chosen": False, "rejected": True}}
        if outcome == "tie":
            assert Pair.model_validate(raw).acceptable.rejected is True
        else:
            with pytest.raises(ValueError, match="the losing reply is acceptable"):
                Pair.model_validate(raw)


def test_without_ratings_only_acceptability_counts() -> None:
    pairs = pairs_from_labels([_reply("a", True, None), _reply("b", False, None), _reply("c", False, None)])
    assert [pair.id for pair in pairs] == ["a>b", "a>c"]
