"""Reading JSON lines: every mistake names its file and line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from routing.errors import BadRoutingInput
from routing.jsonl import read_jsonl


def test_plain_and_compressed(write_jsonl: Callable[[str, list[object]], Path]) -> None:
    for name in ("a.jsonl", "a.jsonl.gz"):
        path = write_jsonl(name, [{"a": 1}, {"b": 2}])
        assert list(read_jsonl(str(path))) == [(1, {"a": 1}), (2, {"b": 2})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n\n{"a":', "line 3: not JSON"),
        (b"[1]\n", "line 1: expected a JSON object, found list"),
        (b'{"a": "\xff"}\n', "not UTF-8"),
        (b"[" * 100_000 + b"\n", "line 1: not JSON"),
    ],
)
def test_bad_lines(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadRoutingInput, match=message) as caught:
        list(read_jsonl(str(path)))
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_gzip_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(b"plain")
    with pytest.raises(BadRoutingInput, match="damaged"):
        list(read_jsonl(str(tmp_path / "x.gz")))
    with pytest.raises(BadRoutingInput, match="No such file"):
        list(read_jsonl(str(tmp_path / "none.jsonl")))
