"""Which text of a conversation is classified, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from routing.conversation import PIECE, pieces


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def test_last_three_user_turns_newest_first() -> None:
    messages = [
        user("one"),
        user("two"),
        {"role": "assistant", "content": "said by the model"},
        user("three"),
        {"role": "tool", "content": "found by a tool"},
        user("four"),
        {"role": "system", "content": "rules"},
    ]
    assert pieces(messages) == ["four", "three", "two"]


def test_text_parts_are_joined_and_others_passed_over() -> None:
    parts = [{"type": "text", "text": "my card"}, {"type": "image_url", "image_url": {"url": "x"}}, None, "is gone"]
    assert pieces([user(parts)]) == ["my card is gone"]


def test_objects_with_attributes_are_read_like_mappings() -> None:
    part = SimpleNamespace(type="text", text="hello")
    assert pieces([SimpleNamespace(role="user", content=[part])]) == ["hello"]


def test_empty_turns_do_not_count() -> None:
    assert pieces([user("one"), user("two"), user("three"), user(""), user(None), user(" \n")]) == [
        "three",
        "two",
        "one",
    ]


def test_a_long_turn_is_read_at_both_ends() -> None:
    assert pieces("a" * 1000 + "b" * 1000) == ["a" * PIECE, "b" * PIECE]
    assert pieces("a" * (PIECE + 1)) == ["a" * PIECE, "a" * PIECE]
    assert pieces("a" * PIECE) == ["a" * PIECE]


def test_white_space_does_not_make_a_turn_long() -> None:
    assert pieces("a" + " " * 1000 + "b") == ["a b"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", []),
        ("\x00\x01\n", []),
        ("a\x00b\tc", ["a b c"]),
        (b"\xff\xfe\x00", []),
        (b"caf\xc3\xa9", ["café"]),
        ("\ud800 lone", ["? lone"]),
        ("💳🔥", ["💳🔥"]),
        ([], []),
        (None, []),
        (7, []),
        ([None, 3, "text", {"role": "user"}, {"role": "user", "content": 5}, {"role": "user", "content": {}}], []),
    ],
)
def test_whatever_comes_gets_an_answer(given: Any, expected: list[str]) -> None:
    assert pieces(given) == expected
