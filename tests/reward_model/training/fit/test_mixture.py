from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reward_model.errors import BadInput
from reward_model.labels import Pair
from reward_model.training.fit.mixture import cap, choose, read_sources
from reward_model.training.fit.recipe import Recipe

PROMPT = [{"role": "user", "content": "x"}]


def _rows(count: int, **extra: Any) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "prompt": PROMPT, "chosen": "c", "rejected": "r", "group": f"g{i // 3}", **extra}
        for i in range(count)
    ]


def _recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({"id": "x@1", "sources": {"star": {}}, **changes})


def test_caps_take_whole_groups_and_repeats_are_groups_of_their_own(
    jsonl: Callable[[str, list[dict[str, Any]]], Path], tmp_path: Path
) -> None:
    jsonl("preferences/star.jsonl", _rows(300))
    recipe = _recipe(sources={"star": {"max_pairs": 12, "repeat": 2}})
    sources = read_sources(recipe, tmp_path, None)
    (pairs,) = choose(recipe, sources).values()
    assert len(pairs) == 24
    assert len({pair.group for pair in pairs}) == 8
    train = {pair.id for pair in sources["star"]["train"]}
    assert {pair.id for pair in pairs} <= train
    again = choose(recipe, sources)["star"]
    assert [pair.id for pair in again] == [pair.id for pair in pairs]


@pytest.mark.parametrize("repeat", [1, 2, 4])
def test_the_members_of_an_ensemble_share_no_group_however_often_it_is_repeated(
    jsonl: Callable[[str, list[dict[str, Any]]], Path], tmp_path: Path, repeat: int
) -> None:
    jsonl("preferences/star.jsonl", _rows(90))
    recipe = _recipe(sources={"star": {"repeat": repeat}})
    sources = read_sources(recipe, tmp_path, None)
    first, second = ({pair.id for pair in choose(recipe, sources, (i, 2))["star"]} for i in range(2))
    assert not first & second
    assert first | second == {pair.id for pair in sources["star"]["train"]}


def test_a_set_that_was_written_so_says_what_would_be_sent(
    jsonl: Callable[[str, list[dict[str, Any]]], Path], tmp_path: Path
) -> None:
    own = {"chosen": True, "rejected": True}
    rows = [*_rows(30), {**_rows(1)[0], "id": "own", "acceptable": own}, {**_rows(1)[0], "id": "tie", "outcome": "tie"}]
    jsonl("preferences/star.jsonl", rows)
    for written in (False, True):
        splits = read_sources(_recipe(sources={"star": {"winners_acceptable": written}}), tmp_path, None)["star"]
        known = {pair.id: pair.acceptable.model_dump() for pairs in splits.values() for pair in pairs}
        silent = {"chosen": None, "rejected": None}
        assert (known.pop("own"), known.pop("tie")) == (own, silent)
        expected = {"chosen": True, "rejected": False} if written else silent
        assert len(known) == 30
        assert all(verdict == expected for verdict in known.values())


def test_ties_are_not_trained_on(jsonl: Callable[[str, list[dict[str, Any]]], Path], tmp_path: Path) -> None:
    jsonl("preferences/star.jsonl", _rows(30, outcome="tie"))
    assert choose(_recipe(), read_sources(_recipe(), tmp_path, None)) == {"star": []}


def test_only_train_and_test_labels_become_pairs(
    jsonl: Callable[[str, list[dict[str, Any]]], Path], tmp_path: Path
) -> None:
    jsonl("preferences/star.jsonl", _rows(3))
    labels = [
        {"id": f"{split}{i}", "prompt": PROMPT, "completion": str(i), "acceptable": i == 0, "group": split}
        | {"split": split}
        for split in ("train", "calibration", "test")
        for i in range(3)
    ]
    recipe = _recipe(authored={"repeat": 2})
    sources = read_sources(recipe, tmp_path, jsonl("labels.jsonl", labels))
    authored = {name: [pair.id for pair in pairs] for name, pairs in sources["authored"].items()}
    assert authored == {
        "train": ["train0>train1", "train0>train2"],
        "validation": [],
        "test": ["test0>test1", "test0>test2"],
    }
    assert len(choose(recipe, sources)["authored"]) == 4


def test_what_is_missing_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"names the source star, but .* has no star\.jsonl\.gz"):
        read_sources(_recipe(), tmp_path, None)
    with pytest.raises(BadInput, match="--labels"):
        read_sources(_recipe(sources={}, authored={}), tmp_path, None)


def test_no_cap_keeps_the_order() -> None:
    pairs = [Pair.model_validate(row) for row in _rows(5)]
    assert cap(pairs, None, 0) == cap(pairs, 5, 0) == pairs
