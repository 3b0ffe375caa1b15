"""Sides of the split by hand: groups stay together, published parts are tests, copies of tests are dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from routing.errors import BadRoutingInput
from routing.train.data import authored, load, on


def row(text: str, route: str = "other") -> dict[str, str]:
    return {"text": text, "route": route}


def public(folder: Path, hold_out: bool = False) -> list[tuple[str, str, int]]:
    return [(e.text, e.side, e.label) for e in load(folder, hold_out).examples if e.source != "authored"]


def test_labels_and_sources(write_jsonl: Callable[[str, list[object]], Path]) -> None:
    rows: list[object] = [
        row("late fee", "billing"),
        row("card gone", "fraud"),
        row("hours", "other"),
        row("hm", "ambiguous"),
    ]
    folder = write_jsonl("data/shop_sample.jsonl.gz", rows).parent
    examples = [example for example in load(folder).examples if example.source != "authored"]
    assert [(e.label, e.source) for e in examples] == [(1, "shop"), (2, "shop"), (0, "shop"), (-1, "shop")]
    assert examples[-1].side == "ambiguous"


def test_a_published_part_is_test_and_its_copies_leave_the_training(
    write_jsonl: Callable[[str, list[object]], Path],
) -> None:
    write_jsonl("data/bank_train.jsonl", [row("Please block my card!"), row("an entirely other matter")])
    folder = write_jsonl("data/bank_val.jsonl", [row("can you block the card")]).parent
    texts = {text: side for text, side, _ in public(folder)}
    assert texts["can you block the card"] == "test"
    assert "Please block my card!" not in texts
    # Beside a published test part nothing of the training file is test.
    assert texts["an entirely other matter"] in {"train", "validation"}


def test_near_copies_share_a_side(write_jsonl: Callable[[str, list[object]], Path]) -> None:
    rows: list[object] = [
        row(f"{opening} question number {word}") for word in "abcdefghij" for opening in ("my", "the", "please")
    ]
    folder = write_jsonl("data/x_all.jsonl", rows).parent
    sides = Counter((text.split()[-1], side) for text, side, _ in public(folder))
    assert set(sides.values()) == {3}


def test_classes_are_those_of_the_data(write_jsonl: Callable[[str, list[object]], Path]) -> None:
    rows: list[object] = [row("a parcel", "returns"), row("hours", "default"), row("late fee", "billing")]
    corpus = load(write_jsonl("own/shop.jsonl", rows).parent)
    # They lack fraud, so the authored texts, which have it, stay out.
    assert corpus.classes == ("default", "billing", "returns")
    assert {example.source for example in corpus.examples} == {"shop"}
    more: list[object] = [*rows, row("stolen card", "fraud")]
    wider = load(write_jsonl("all/shop.jsonl", more).parent)
    assert wider.classes == ("default", "billing", "fraud", "returns")
    assert {example.source for example in wider.examples} == {"shop", "authored"}


def test_long_texts_without_stakes_are_prose_and_keep_their_group(
    write_jsonl: Callable[[str, list[object]], Path],
) -> None:
    long = "It rained all day. " * 20
    rows: list[object] = [
        {**row(long + "one"), "group": "g"},
        {**row(long + "two"), "group": "g"},
        row(long + "fee", "billing"),
    ]
    corpus = load(write_jsonl("data/x.jsonl", rows).parent)
    assert [(example.text[-3:], example.group) for example in corpus.prose] == [("one", "g"), ("two", "g")]
    assert len({example.side for example in corpus.prose}) == 1
    assert long + "fee" in {example.text for example in corpus.examples}


def test_authored_groups_are_on_one_side_and_about_a_fifth_is_test() -> None:
    sides: dict[str, set[str]] = {}
    for example in authored():
        sides.setdefault(example.group, set()).add(example.side)
    assert all(len(found) == 1 for found in sides.values())
    share = len(on("test", authored())) / len(authored())
    assert 0.1 < share < 0.3


def test_authored_texts_differ_and_are_many() -> None:
    texts = [example.text.lower() for example in authored()]
    assert len(texts) == len(set(texts)) >= 1_000


def test_phrasing_held_out_is_not_in_training(write_jsonl: Callable[[str, list[object]], Path]) -> None:
    folder = write_jsonl("data/x_all.jsonl", [row("something")]).parent
    for example in load(folder, hold_out_phrasing=True).examples:
        spoken = example.domain == "insurer" or "transcript" in example.style
        assert (example.side == "unseen") == spoken


@pytest.mark.parametrize("bad", [{"text": "x"}, {"text": 3, "route": "fraud"}, {"text": "x", "route": "Spam!"}])
def test_bad_rows_name_their_line(write_jsonl: Callable[[str, list[object]], Path], bad: object) -> None:
    folder = write_jsonl("data/x.jsonl", [row("fine"), bad]).parent
    with pytest.raises(BadRoutingInput, match=r"x\.jsonl, line 2: expected a `text` and a `route`"):
        load(folder)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRoutingInput, match="to train on"):
        load(tmp_path)
