"""Fragments of tool calls from policies that number them as they please."""

from __future__ import annotations

from typing import Any

import pytest

from service.upstream.tool_calls import ToolCalls, arguments_text, whole_calls

Part = dict[str, Any]
BEGIN: Part = {"id": "call_a", "type": "function", "function": {"name": "find", "arguments": ""}}
REST: list[Part] = [{"function": {"arguments": '{"month"'}}, {"function": {"arguments": ': "May"}'}}]


def assembled(parts: list[Part]) -> list[tuple[Any, str, str]]:
    """The calls as a client puts them together: by index."""
    calls, reader = dict[int, list[Any]](), ToolCalls()
    for part in parts:
        shown = reader.fragment(part)
        assert type(shown["index"]) is int
        call = calls.setdefault(shown["index"], [shown.get("id"), "", ""])
        assert isinstance(shown["function"]["arguments"], str)
        call[1] += shown["function"].get("name", "")
        call[2] += shown["function"]["arguments"]
    assert list(calls) == list(range(len(calls)))
    return [(key, name, arguments) for key, name, arguments in calls.values()]


@pytest.mark.parametrize("index", [{}, {"index": None}, {"index": 0}, {"index": 3}, {"index": "0"}, {"index": 10**12}])
def test_three_fragments_are_one_call(index: Part) -> None:
    assert assembled([index | part for part in (BEGIN, *REST)]) == [("call_a", "find", '{"month": "May"}')]


@pytest.mark.parametrize("index", [{}, {"index": 0}])
def test_a_fragment_with_an_id_of_its_own_or_the_name_again_begins_no_call(index: Part) -> None:
    own = [index | {"id": f"call_{i}"} | part for i, part in enumerate(REST)]
    assert assembled([index | BEGIN, *own]) == [("call_a", "find", '{"month": "May"}')]
    again = [index | {"function": part["function"] | {"name": "find"}} for part in REST]
    assert assembled([index | BEGIN, *again]) == [("call_a", "find", '{"month": "May"}')]


@pytest.mark.parametrize("indices", [(None, None), (0, 0), (0, 1), (1, 2)])
@pytest.mark.parametrize("ids", [("a", "b"), (None, None)])
def test_two_whole_calls_stay_two(indices: tuple[Any, Any], ids: tuple[Any, Any]) -> None:
    parts = [
        {"index": index, "id": key, "function": {"name": "find", "arguments": f'{{"n": {n}}}'}}
        for n, (index, key) in enumerate(zip(indices, ids, strict=True))
    ]
    calls = assembled(parts)
    assert [(name, arguments) for _, name, arguments in calls] == [("find", '{"n": 0}'), ("find", '{"n": 1}')]
    keys = [key for key, _, _ in calls]
    assert len(set(keys)) == 2
    assert all(keys)
    assert ids == (None, None) or keys == list(ids)


def test_fragments_of_two_calls_may_alternate() -> None:
    begin = [{"index": i, "id": f"c{i}", "function": {"name": "f", "arguments": ""}} for i in (0, 1)]
    parts: list[Part] = [*begin, *({"index": i % 2, "function": {"arguments": str(i)}} for i in range(4))]
    assert assembled(parts) == [("c0", "f", "02"), ("c1", "f", "13")]


def test_a_name_in_pieces_is_put_together() -> None:
    parts = [{"index": 0, "id": "a", "function": {"name": "find"}}, {"index": 0, "function": {"name": "_charge"}}]
    assert assembled(parts) == [("a", "find_charge", "")]


@pytest.mark.parametrize(
    ("sent", "text"),
    [({"month": "May"}, '{"month":"May"}'), ([], "[]"), (None, ""), ("", ""), ('{"a": 1}', '{"a": 1}')],
)
def test_arguments_are_text(sent: Any, text: str) -> None:
    assert arguments_text(sent) == text


def test_each_entry_of_a_whole_message_is_a_call() -> None:
    calls = whole_calls([{"id": "a", "function": {"name": "f", "arguments": {"x": 1}}}, {"function": {"name": "f"}}])
    assert [(call["index"], call["function"]) for call in calls] == [
        (0, {"name": "f", "arguments": '{"x":1}'}),
        (1, {"name": "f", "arguments": ""}),
    ]
    assert calls[0]["id"] == "a"
    assert calls[1]["id"].startswith("call_")
