from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reward_model.training.curation.reading import read_file, split_names

Row = dict[str, Any]


def test_every_error_is_noted_with_its_line_and_the_rest_is_read(
    tmp_path: Path, row: Callable[..., Row], jsonl: Callable[[str, list[Row]], Path]
) -> None:
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]
    rows = [row("a"), row("b", chosen=3, strength=2), row("c", prompt=image), row("d")]
    path = jsonl("pairs.jsonl", rows)
    path.write_text(path.read_text() + "\n{\n[1]\n")
    read = read_file(str(path))
    assert [pair.id for pair in read.pairs] == ["a", "d"]
    assert read.lines == [1, 4]
    found = [(error.line, error.field) for error in read.errors]
    assert [line for line, _ in found] == [2, 2, 2, 3, 6, 7]
    assert {"strength", "chosen.str"} <= {name for _, name in found}
    assert "only text parts" in read.errors[3].message
    assert str(read.errors[4]).startswith(f"{path}, line 6: not JSON")


def test_a_file_that_cannot_be_read_is_an_error_too(tmp_path: Path) -> None:
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"id": 1}\n' * 100)[:-12])
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    for name, message in (("none.jsonl", "No such file"), ("cut.jsonl.gz", "damaged"), ("latin.jsonl", "not UTF-8")):
        errors = read_file(str(tmp_path / name)).errors
        assert errors[-1].line == 0
        assert message in errors[-1].message


def test_a_file_is_the_split_that_it_or_its_folder_is_named_after() -> None:
    paths = ["x/train/pairs.jsonl.gz", "val.jsonl", "test.jsonl.gz", "train/test.jsonl", "more.jsonl", "-"]
    assert list(split_names(paths)) == ["train", "validation", "test", "test", "more.jsonl", "-"]
