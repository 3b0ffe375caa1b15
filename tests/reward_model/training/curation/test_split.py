from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reward_model.errors import BadInput
from reward_model.jsonl import read_jsonl
from reward_model.training.curation.split import split_folder

ROWS = [
    {"id": str(i), "prompt": [{"role": "user", "content": "é"}], "chosen": "c", "rejected": "r"}
    | {"group": f"g{i % 40}", "meta": {"kept": i}}
    for i in range(200)
]


def test_every_row_lands_in_one_part_with_its_group(
    jsonl: Callable[[str, list[dict[str, Any]]], Path], tmp_path: Path
) -> None:
    jsonl("data/preferences/star.jsonl", ROWS)
    report = split_folder(tmp_path / "data", tmp_path / "out")
    parts = {
        name: [row for _, row in read_jsonl(str(tmp_path / "out" / name / "star.jsonl.gz"))]
        for name in ("train", "validation", "test")
    }
    assert sorted((row for part in parts.values() for row in part), key=lambda r: int(r["id"])) == ROWS
    groups = [{row["group"] for row in part} for part in parts.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 40
    assert {name: report["star"][name]["pairs"] for name in parts} == {n: len(p) for n, p in parts.items()}
    assert json.loads((tmp_path / "out/splits.json").read_text()) == report


def test_what_cannot_be_split_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no"):
        split_folder(tmp_path, tmp_path / "out")
    (tmp_path / "preferences").mkdir()
    (tmp_path / "preferences/x.jsonl").write_text("{}\n")
    with pytest.raises(BadInput, match=r"x\.jsonl, line 1: id"):
        split_folder(tmp_path, tmp_path / "out")
    (tmp_path / "old").mkdir()
    with pytest.raises(BadInput, match="exists"):
        split_folder(tmp_path, tmp_path / "old")
