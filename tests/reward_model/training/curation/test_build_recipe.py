from __future__ import annotations

from pathlib import Path

import pytest

from reward_model.errors import BadInput
from reward_model.training.curation.build_recipe import PairSource, load_build_recipe, source_file


def _load(tmp_path: Path, text: str) -> None:
    (tmp_path / "set.toml").write_text(text)
    load_build_recipe(tmp_path / "set.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = ", "not TOML"),
        ("", r"set\.toml: sources: Field required"),
        ("[sources.a]\nfile = 'x'", r"sources\.a\.file: Extra inputs"),
        ("[sources.a]\n[buckets.b]\nshare = 0.1", "need a total"),
        ("floor = 3\n[sources.a]", "need a total"),
        ("total = 9\n[sources.a]\n[buckets.b]\nshare = 0.6\n[buckets.c]\nshare = 0.5", "more than 1"),
        ("total = 9\n[sources.a]\n[controls.length]\nrate = 0.1", "say which pairs it takes"),
        ("total = 9\n[sources.a]\n[controls.length]\nrate = 0.1\nsources = ['b']", "does not have: b"),
        ("[sources.a]\n[splits]\nvalidation = 0.5\ntest = 0.5", "nothing to train on"),
        ("[sources.a]\n[agreement]\nmin = 1.2", r"agreement\.min"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        _load(tmp_path, text)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"set\.toml: No such file"):
        load_build_recipe(tmp_path / "set.toml")


def test_sources_lie_by_the_recipe_or_in_the_data_folder(tmp_path: Path) -> None:
    recipe, data = tmp_path / "recipes/set.toml", tmp_path / "data"
    assert source_file("a", PairSource(path=Path("../a.jsonl")), recipe, None) == tmp_path / "recipes/../a.jsonl"
    with pytest.raises(BadInput, match="--data"):
        source_file("a", PairSource(), recipe, None)
    with pytest.raises(BadInput, match="the source a"):
        source_file("a", PairSource(), recipe, data)
    (data / "preferences").mkdir(parents=True)
    (data / "preferences/a.jsonl").touch()
    assert source_file("a", PairSource(), recipe, data) == data / "preferences/a.jsonl"
