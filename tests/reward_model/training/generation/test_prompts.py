from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reward_model.errors import BadInput
from reward_model.training.generation.prompts import read_prompts

Row = dict[str, Any]
Write = Callable[[str, list[Row]], Path]
ASKED = [{"role": "user", "content": "Where is my refund?"}]


def test_prompts_pairs_and_labelled_replies_are_read(row: Callable[..., Row], jsonl: Write) -> None:
    rows = [
        {"id": "plain", "messages": ASKED, "bucket": "refund", "lang": "de"},
        row("pair", "Winner", origin={"chosen": "teacher"}),
        {"id": "r#0", "prompt": ASKED, "group": "r", "completion": "x", "acceptable": True},
        {"id": "r#1", "prompt": ASKED, "group": "r", "completion": "y", "acceptable": False},
        {
            "id": "own",
            "prompt": ASKED,
            "reference": "By rule 2.",
            "reference_origin": "authored",
            "reference_label": "authored",
        },
    ]
    plain, pair, reply, own = read_prompts(str(jsonl("in.jsonl", rows)), "human", "review")
    assert (plain.prompt[0].content, plain.locale, plain.reference) == ("Where is my refund?", "de", None)
    assert plain.shared()["group"] == "plain"
    assert (pair.reference, pair.reference_origin, pair.reference_label) == ("Winner", "teacher", "review")
    assert (reply.id, reply.reference) == ("r#0", None)
    assert (own.reference_origin, own.reference_label) == ("authored", "authored")


def test_a_reference_that_nobody_judged_has_no_label(row: Callable[..., Row], jsonl: Write) -> None:
    (one,) = read_prompts(str(jsonl("in.jsonl", [row("a")])))
    assert (one.reference_origin, one.reference_label) == (None, None)


@pytest.mark.parametrize(
    ("rows", "origin", "message"),
    [
        ([], None, "has no prompts"),
        ([{"id": "a"}], None, "line 1: prompt"),
        ([{"id": "a", "prompt": ASKED}], "robot", "line 1: reference_origin: Input should be 'human'"),
        ([{"id": "a", "prompt": ASKED}, {"id": "a", "prompt": [*ASKED, *ASKED]}], None, "line 2: the id a stands for"),
    ],
)
def test_what_does_not_fit_is_named(rows: list[Row], origin: str | None, message: str, jsonl: Write) -> None:
    with pytest.raises(BadInput, match=message):
        read_prompts(str(jsonl("in.jsonl", rows)), origin)
