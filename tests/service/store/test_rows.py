"""Every string of a record is redacted, however deep, and every row fits its columns."""

from __future__ import annotations

import json
import math
from typing import Any

from service.store.rows import Record, fitted, stored_user, user_digest
from service.store.tables import responses


def redacted(**response: Any) -> dict[str, Any]:
    return Record({"prompt": None, "parameters": {}} | response, []).redacted().response


def test_tools_formats_and_their_keys_are_redacted() -> None:
    tool = {
        "function": {"name": "pay", "description": "Pays 4111 1111 1111 1111", "parameters": {"enum": ["a@b.example"]}}
    }
    row = redacted(parameters={"tools": [tool], "stop": ["+49 30 1234567"], "seed": 4111111111111111, "a@b.example": 1})
    shown = json.dumps(row["parameters"])
    assert "4111 1111" not in shown
    assert "a@b.example" not in shown
    assert row["parameters"]["tools"][0]["function"] == {
        "name": "pay",
        "description": "Pays [card]",
        "parameters": {"enum": ["[email]"]},
    }
    assert (row["parameters"]["stop"], row["parameters"]["[email]"]) == (["[phone]"], 1)
    assert row["redacted"] == ["card", "email", "phone"]


def test_keys_that_become_equal_are_told_apart() -> None:
    assert redacted(parameters={"a@b.example": 1, "c@d.example": 2})["parameters"] == {"[email]": 1, "[email]#2": 2}


def test_nesting_without_end_is_cut_and_what_stands_above_stays() -> None:
    deep: Any = "4111111111111111"
    for _ in range(5_000):
        deep = [deep]
    row = redacted(parameters={"tools": [{"name": "kept", "deep": deep}]})
    shown = json.dumps(row["parameters"])
    assert "kept" in shown
    assert "[nested too deeply]" in shown
    assert "4111" not in shown


def test_rows_fit_their_columns() -> None:
    row = fitted(responses, {"locale": "x" * 40, "stop_reason": "a\x00b\ud83d", "n": 2**40, "score": math.nan})
    assert row["locale"] == "x" * 23 + "#" + user_digest("x" * 40)[:8]
    assert (row["stop_reason"], row["n"], row["score"]) == ("a\ufffdb?", 2**31 - 1, None)
    assert fitted(responses, {"timings_ms": {"a\x00": [math.inf]}})["timings_ms"] == {"a\ufffd": [None]}


def test_users_are_kept_apart() -> None:
    assert stored_user("u-7") == "u-7"
    assert stored_user(None) is None
    names = ["n" * 256, "n" * 257, "n" * 258, "a\x00", "a\ufffd", "a\ud83d", "a?"]
    stored = [stored_user(name) for name in names]
    assert len(set(stored)) == len(names)
    assert all(name is not None and len(name) <= 256 for name in stored)
