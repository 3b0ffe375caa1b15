"""Variants of a recipe: how they are laid over it, run once, and shown."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

import reward_model
from reward_model.errors import BadInput
from reward_model.training.runs.ablation import ablate, load_ablation, markdown, merged

WORDS = ["bill", "card", "refund", "fee", "please", "charged"]


def test_a_change_replaces_one_value_and_none_takes_a_table_away() -> None:
    base: dict[str, Any] = {"model": {"layers": 12, "pooling": "x"}, "sources": {"a": {}, "b": {"repeat": 2}}}
    changed = merged(base, {"model": {"layers": 6}, "sources": {"b": "none"}})
    assert changed == {"model": {"layers": 6, "pooling": "x"}, "sources": {"a": {}}}
    assert base["model"]["layers"] == 12


def test_a_mistaken_variant_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[recipe]\nid = "a@1"\n[recipe.sources.toy]\n[variants.wide]\nmodel.layres = 3\n')
    with pytest.raises(BadInput, match=r"model\.layres"):
        load_ablation(path)


@pytest.mark.parametrize(("name", "variants"), [("ablation", 8), ("ablation_loss", 3), ("shared_prefix", 2)])
def test_the_shipped_comparisons_are_valid(name: str, variants: int) -> None:
    ablation, recipes = load_ablation(Path(reward_model.__file__).parent / f"recipes/{name}.toml")
    assert len(recipes) == variants
    assert all(source.path is None or source.path.is_file() for r in recipes.values() for source in r.sources.values())
    # Every variant is measured on all sources of the shared part, the clarity set too where it is not learned from.
    assert set.union(*(set(recipe.sources) for recipe in recipes.values())) <= ablation.recipe["sources"].keys()


def _write(folder: Path, base: Path) -> Path:
    random = Random(0)
    (folder / "preferences").mkdir()
    with (folder / "preferences/toy.jsonl").open("w") as stream:
        for i in range(60):
            text = f"{' '.join(random.choices(WORDS, k=3))} {i}"
            good, evil = (f"{word} {random.choice(WORDS)}" for word in ("good", "evil"))
            row = {"id": str(i), "group": str(i), "prompt": [{"role": "user", "content": text}]}
            stream.write(json.dumps({**row, "chosen": good, "rejected": evil}) + "\n")
    path = folder / "a.toml"
    path.write_text(
        f'[recipe]\nid = "a@1"\nmodel = {{ base = "{base}", layers = 2 }}\n'
        "formatting = { max_prompt_tokens = 64, max_completion_tokens = 16 }\n"
        "optim = { epochs = 1, bf16 = false, evaluations = 1, head_start = 1000 }\n"
        "[recipe.sources.toy]\n[variants.two]\n[variants.one]\nmodel.layers = 1\n"
    )
    return path


def test_each_variant_runs_once_and_has_its_row(base: Path, tmp_path: Path) -> None:
    path, results = _write(tmp_path, base), tmp_path / "results.jsonl"
    first = list(ablate(path, tmp_path, results))
    assert [line["variant"] for line in first] == ["two", "one"]
    assert all(line["validation"]["toy"]["accuracy"] >= 0.8 for line in first)
    written = results.read_text()
    # Again: nothing is trained, the same lines come back.
    assert list(ablate(path, tmp_path, results)) == first
    assert results.read_text() == written
    table = markdown(first).splitlines()
    assert table[0].startswith("| variant | toy | mean |")
    assert f"{first[1]['validation']['toy']['accuracy']:.3f}" in table[3]
