from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reward_model.errors import BadInput
from reward_model.jsonl import read_jsonl
from reward_model.labels import Pair, digest, read_rows, split_of
from reward_model.training.curation.build import build
from reward_model.training.data_cli import data_app

Row = dict[str, Any]
RECIPE = """
total = 60
floor = 4
winner_always_first = "swap"
[sources.main]
[sources.flattery]
path = "flattery.jsonl"
[buckets.fraud]
share = 0.2
[controls.sycophancy]
rate = 0.1
sources = ["flattery"]
"""


@pytest.fixture
def recipe(tmp_path: Path, row: Callable[..., Row], jsonl: Callable[[str, list[Row]], Path]) -> Path:
    """A recipe over 100 pairs of three buckets in a data folder, and a file of control pairs beside it."""
    sizes = {"billing": 70, "fraud": 25, "refund": 5}
    rows = [row(f"{b}{i}", f"Yes {i}, é.", bucket=b, group=f"{b}{i // 2}") for b, n in sizes.items() for i in range(n)]
    rows += [row(f"first{i}", "A", "B", prompt="x", group="first", shown_first="chosen") for i in range(2)]
    rows += [row("torn", annotators=[{"id": "a", "vote": "chosen"}, {"id": "b", "vote": "rejected"}])]
    jsonl("data/preferences/main.jsonl", rows)
    jsonl("flattery.jsonl", [row(f"f{i}", bucket="billing") for i in range(20)])
    (tmp_path / "set.toml").write_text(RECIPE)
    return tmp_path / "set.toml"


def _ids(path: Path) -> list[str]:
    return [row["id"] for _, row in read_jsonl(str(path))]


def test_the_set_is_what_the_manifest_says(tmp_path: Path, recipe: Path) -> None:
    manifest = build(recipe, tmp_path / "out", tmp_path / "data")
    assert json.loads((tmp_path / "out/manifest.json").read_text()) == manifest
    outputs = manifest["outputs"]
    splits = ("train", "validation", "test")
    for split in splits:
        path = tmp_path / "out" / split / "pairs.jsonl.gz"
        pairs = list(read_rows(path, Pair))
        assert outputs[split]["file"] == f"{split}/pairs.jsonl.gz"
        assert outputs[split]["sha256"] == sha256(path.read_bytes()).hexdigest()
        assert (outputs[split]["pairs"], outputs[split]["digest"]) == (len(pairs), digest(pairs))
        assert all(pair.split == split == split_of(pair.group) for pair in pairs)
    assert sum(outputs[split]["pairs"] for split in splits) == 60
    assert manifest["by_bucket"]["fraud"] | {"train": 0, "validation": 0, "test": 0} == {
        "read": 25, "usable": 25, "written": 12, "train": 0, "validation": 0, "test": 0,
    }  # fmt: skip
    assert manifest["by_bucket"]["refund"]["written"] == 4
    assert manifest["controls"] == {"sycophancy": {"wanted": 6, "found": 20, "drawn": 6}}
    assert manifest["dropped"] == {"annotators_disagree": 1, "not_drawn": 60, "winner_always_first": 2}
    source = tmp_path / "data/preferences/main.jsonl"
    assert manifest["inputs"]["main"]["sha256"] == sha256(source.read_bytes()).hexdigest()
    assert (manifest["inputs"]["main"]["pairs"], manifest["inputs"]["main"]["written"]) == (103, 54)


def test_every_pair_is_written_or_accounted_for(tmp_path: Path, recipe: Path) -> None:
    build(recipe, tmp_path / "out", tmp_path / "data")
    written = [
        name for split in ("train", "validation", "test") for name in _ids(tmp_path / "out" / split / "pairs.jsonl.gz")
    ]
    reasons = {row["id"]: row["reason"] for _, row in read_jsonl(str(tmp_path / "out/dropped.jsonl.gz"))}
    read = _ids(tmp_path / "data/preferences/main.jsonl") + _ids(tmp_path / "flattery.jsonl")
    assert sorted([*written, *reasons]) == sorted(read)
    assert (reasons["torn"], reasons["first0"]) == ("annotators_disagree", "winner_always_first")
    assert _ids(tmp_path / "out/to_judge.jsonl.gz") == ["first0:swapped", "first1:swapped"]


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, recipe: Path) -> None:
    build(recipe, tmp_path / "one", tmp_path / "data")
    build(recipe, tmp_path / "deeper/two", tmp_path / "data")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "deeper/two" / file).read_bytes()
    recipe.write_text(RECIPE.replace("total", "seed = 8\ntotal"))
    build(recipe, tmp_path / "three", tmp_path / "data")
    train = "train/pairs.jsonl.gz"
    assert (tmp_path / "one" / train).read_bytes() != (tmp_path / "three" / train).read_bytes()


def test_rows_keep_what_they_came_with(tmp_path: Path, row: Callable[..., Row]) -> None:
    odd = row("a", "退款 \ud800", mine={"kept": [1]})
    (tmp_path / "a.jsonl").write_text(json.dumps(odd))
    (tmp_path / "set.toml").write_text('[sources.a]\npath = "a.jsonl"')
    build(tmp_path / "set.toml", tmp_path / "out")
    split = split_of("a")
    with gzip.open(tmp_path / "out" / split / "pairs.jsonl.gz") as stream:
        line = stream.read()
    # No flags, so no file name, and no time (RFC 1952).
    assert (tmp_path / "out" / split / "pairs.jsonl.gz").read_bytes()[3:8] == bytes(5)
    assert "退款".encode() in line
    assert json.loads(line) == {**odd, "source": "a", "split": split}


def test_nothing_half_done_is_left(tmp_path: Path, recipe: Path) -> None:
    """As on a full disk: no file may grow beyond 700 bytes."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))\n"
        "from reward_model.training.data_cli import data_app; data_app()"
    )
    arguments = ["build", str(recipe), "--out", str(tmp_path / "parts/out"), "--data", str(tmp_path / "data")]
    done = subprocess.run([sys.executable, "-B", "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode != 0
    assert "File too large" in done.stderr
    assert list((tmp_path / "parts").iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path: Path, recipe: Path) -> None:
    with pytest.raises(BadInput, match="exists"):
        build(recipe, tmp_path, tmp_path / "data")


def test_the_command_prints_the_manifest(tmp_path: Path, recipe: Path) -> None:
    arguments = ["build", str(recipe), "--out", str(tmp_path / "out"), "--data", str(tmp_path / "data")]
    done = CliRunner().invoke(data_app, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((tmp_path / "out/manifest.json").read_text())
    again = CliRunner().invoke(data_app, arguments)
    assert again.exit_code == 2
    assert "exists; choose another --out" in again.stderr
