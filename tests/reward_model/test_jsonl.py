from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from reward_model.errors import BadInput
from reward_model.jsonl import open_text, read_jsonl


def test_lines_come_with_their_numbers_and_blank_ones_are_passed_over(tmp_path: Path) -> None:
    text = '{"a": 1}\n\n{"a": "é"}\n'
    (tmp_path / "x.jsonl").write_text(text)
    with gzip.open(tmp_path / "x.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.write(text)
    expected = [(1, {"a": 1}), (3, {"a": "é"})]
    assert list(read_jsonl(str(tmp_path / "x.jsonl"))) == expected
    assert list(read_jsonl(str(tmp_path / "x.jsonl.gz"))) == expected


def test_a_dash_is_the_standard_stream() -> None:
    program = "from reward_model.jsonl import read_jsonl; print(list(read_jsonl('-')))"
    done = subprocess.run(
        [sys.executable, "-c", program], input='{"a": 1}\n', capture_output=True, text=True, check=True
    )
    assert done.stdout == "[(1, {'a': 1})]\n"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "out.jsonl.gz")
    with open_text(path, "w") as stream:
        stream.write('{"b": 2}\n')
    assert list(read_jsonl(path)) == [(1, {"b": 2})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a"\n', "line 2: not JSON"),
        (b"[1]\n", "line 1: expected a JSON object, found list"),
        (b'{"a": "\xff"}\n', "not UTF-8"),
        (b"[" * 100_000 + b"\n", "line 1: not JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        list(read_jsonl(str(path)))


def test_a_missing_file_and_a_damaged_gz_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        list(read_jsonl(str(tmp_path / "none.jsonl")))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n')[:-6])
    with pytest.raises(BadInput, match=r"damaged \.gz"):
        list(read_jsonl(str(tmp_path / "cut.jsonl.gz")))
