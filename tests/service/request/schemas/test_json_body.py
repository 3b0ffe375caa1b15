"""A body becomes a JSON object that everything behind can carry, or a 400 that says why not."""

from __future__ import annotations

import pytest

from service.errors import InvalidRequest
from service.request.schemas import read_object


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "the body is empty; send a JSON object"),
        (b" \n", "the body is empty; send a JSON object"),
        (b"[]", "the body must be a JSON object"),
        (b'"text"', "the body must be a JSON object"),
        (b"{", "the body is not JSON in UTF-8"),
        (b"\xff\xfe{\x00}\x00", "the body is not JSON in UTF-8"),
        (b'{"a": "\xff"}', "the body is not JSON in UTF-8"),
        (b'{"a": "\\ud83d"}', "the body is not JSON in UTF-8"),
        (b'{"a": NaN}', "the body is not JSON in UTF-8"),
        (b'{"a": 1e999}', "the body is not JSON in UTF-8"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "the body is not JSON in UTF-8"),
        (b'{"a":' * 101 + b"1" + b"}" * 101, "a is nested deeper than 100 levels"),
        (b'{"tools":' + b"[" * 100 + b"]" * 100 + b"}", "tools is nested deeper than 100 levels"),
        (b'{"a\\u0000": 1}', "body holds the character NUL"),
        (b'{"a": {"b": ["\\u0000"]}}', "a.b.0 holds the character NUL"),
    ],
)
def test_what_cannot_be_read_is_refused(body: bytes, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_object(body)
    assert str(caught.value).startswith(sentence)


def test_a_hundred_levels_and_many_brackets_are_read() -> None:
    assert read_object(b'{"a":' * 100 + b"1" + b"}" * 100)
    assert read_object(b'{"a":[' + b"[]," * 500 + b"1]}")


def test_the_last_of_two_equal_keys_counts() -> None:
    assert read_object(b'{"n": 1, "n": 2}') == {"n": 2}


def test_a_byte_order_mark_is_no_part_of_it() -> None:
    assert read_object(b'\xef\xbb\xbf{"n": 1}') == {"n": 1}


def test_nul_is_replaced_in_texts_for_the_model_only() -> None:
    assert read_object(
        b'{"messages": [{"content": "a\\u0000"}], "prompt": ["\\u0000"], "input": [{"output": "\\u0000"}]}'
    ) == {
        "messages": [{"content": "a\ufffd"}],
        "prompt": ["\ufffd"],
        "input": [{"output": "\ufffd"}],
    }
    # A backslash before it makes it the text `\u0000`.
    assert read_object(b'{"user": "\\\\u0000"}') == {"user": "\\u0000"}
