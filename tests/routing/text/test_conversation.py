"""Which texts of a conversation are read, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from routing.text.conversation import BOUND, MOST_TURNS, is_short_answer, pieces, read

LONG = [f"This turn is number {number} and on a topic of its own." for number in range(8)]


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def assistant(content: object) -> dict[str, object]:
    return {"role": "assistant", "content": content}


def test_the_last_five_turns_of_their_own_newest_first() -> None:
    messages = [user(text) for text in LONG]
    assert read(messages).user == LONG[:2:-1]
    assert not read(messages).truncated


def test_short_answers_do_not_push_out_what_they_answer() -> None:
    answers = [user(f"yes {number}") for number in range(100)]
    assert read([user(LONG[0]), *answers]).user[-1] == LONG[0]


def test_the_assistant_is_read_while_only_short_answers_follow() -> None:
    messages = [assistant("zero"), user(LONG[0]), assistant("one"), user("yes"), assistant("two"), user("in May")]
    reading = read([*messages, assistant("not answered yet")])
    assert reading.user == ["in May", "yes", LONG[0]]
    assert reading.assistant == ["two", "one"]
    assert read([user("yes"), assistant("x"), user(LONG[1])]).assistant == []


def test_the_assistants_first_turn_is_its_greeting() -> None:
    messages = [user("hi"), assistant("I help with bills."), user("ok"), assistant("Your bill is due."), user("yes")]
    assert read(messages).assistant == ["Your bill is due."]


def test_other_roles_are_not_read_but_the_last_system_message_is_kept() -> None:
    messages = [user("one"), {"role": "tool", "content": "found"}, {"role": "system", "content": "rules"}]
    reading = read(messages)
    assert (reading.user, reading.assistant, reading.system) == (["one"], [], "rules")


def test_text_parts_are_joined_and_others_passed_over() -> None:
    parts = [{"type": "text", "text": "my card"}, {"type": "image_url", "image_url": {"url": "x"}}, None, "is gone"]
    assert read([user(parts)]).user == ["my card\nis gone"]
    assert pieces([user(parts)]) == ["my card is gone"]


def test_objects_with_attributes_are_read_like_mappings() -> None:
    part = SimpleNamespace(type="text", text="hello")
    assert pieces([SimpleNamespace(role="user", content=[part])]) == ["hello"]


def test_beginning_and_end_of_what_exceeds_the_bound_are_read_and_told() -> None:
    reading = read("a" * BOUND + "b" * BOUND)
    assert reading.user == ["b" * (BOUND // 2), "a" * (BOUND // 2)]
    assert reading.truncated
    assert not read("a" * BOUND).truncated


def test_newer_turns_are_read_before_older_ones() -> None:
    old, new = "o" * BOUND, "n" * (BOUND - 10)
    reading = read([user(old), user(new)])
    assert reading.user == [new, "o" * 5, "o" * 5]
    assert reading.truncated


def test_the_number_of_turns_is_bounded_and_repeated_turns_are_free() -> None:
    assert not read([user("yes")] * 10_000).truncated
    reading = read([user(f"no {number}") for number in range(MOST_TURNS + 1)])
    assert (len(reading.user), reading.truncated) == (MOST_TURNS, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("yes", True), ("yesterday, about noon", True), ("what is the weather like", False), ("x" * 31, False)],
)
def test_short_answers(text: str, expected: bool) -> None:
    assert is_short_answer(text) is expected


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
