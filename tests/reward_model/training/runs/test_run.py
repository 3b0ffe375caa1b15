"""A whole run on a toy language: replies that say `good` win."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from reward_model.checkpoint.checkpoint import load_checkpoint
from reward_model.checkpoint.manifest import Manifest
from reward_model.digests import sha256_of
from reward_model.errors import BadInput, IntegrityError, RewardModelError
from reward_model.labels import Pair, by_split
from reward_model.training.evaluation.evaluate import evaluate, score_pairs
from reward_model.training.fit.recipe import Recipe
from reward_model.training.runs.run import train


def _toy_pairs(count: int) -> list[dict[str, Any]]:
    random = Random(0)
    words = ["bill", "card", "refund", "fee", "please", "charged"]
    rows = []
    for i in range(count):
        text = " ".join(random.choices(words, k=3))
        prompt = [{"role": "user", "content": f"{text} {i}"}]
        chosen, rejected = f"good {random.choice(words)}", f"evil {random.choice(words)}"
        rows.append({"id": str(i), "prompt": prompt, "chosen": chosen, "rejected": rejected, "group": f"g{i}"})
    return rows


def _recipe(base: Path, **model: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "id": "toy@1",
            "model": {"base": str(base), "layers": 2, "lora_rank": 4, "lora_alpha": 8, **model},
            "formatting": {"max_prompt_tokens": 64, "max_completion_tokens": 16},
            "sources": {"toy": {}},
            "optim": {
                "epochs": 4,
                "learning_rate": 5e-3,
                "head_learning_rate": 1e-2,
                "rows_per_step": 8,
                "evaluations": 2,
                "bf16": False,
            },
        }
    )


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Manifest]:
    """Data folder, checkpoint folder and manifest of one run on 120 toy pairs."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "preferences").mkdir()
    rows = "".join(json.dumps(row) + "\n" for row in _toy_pairs(120))
    (folder / "preferences/toy.jsonl").write_text(rows)
    out = folder / "toy" / "1"
    manifest = train(_recipe(base), folder, out, None)
    assert manifest is not None
    return folder, out, manifest


def test_the_loss_falls_and_held_out_pairs_are_learned(trained: tuple[Path, Path, Manifest]) -> None:
    _, out, manifest = trained
    log = json.loads((out / "training_log.json").read_text())
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[0] > 0.3
    assert losses[-1] < 0.2
    figures = manifest.metrics["held_out"]["toy"]
    assert figures["pairs"] > 5
    assert figures["accuracy"] >= 0.9
    pairs = [Pair.model_validate(row) for row in _toy_pairs(120)]
    assert evaluate(load_checkpoint(out, torch.float32), pairs)["accuracy"] >= 0.9


def test_the_figures_are_those_of_the_checkpoint_as_it_is_loaded(trained: tuple[Path, Path, Manifest]) -> None:
    _, out, manifest = trained
    pairs = by_split(Pair.model_validate(row) for row in _toy_pairs(120))["test"]
    scores = score_pairs(load_checkpoint(out), pairs)
    assert manifest.reference_scores is not None
    edges = manifest.reference_scores.edges
    assert (edges[0], edges[-1]) == (round(float(scores.min()), 4), round(float(scores.max()), 4))


def test_the_manifest_says_where_the_checkpoint_comes_from(trained: tuple[Path, Path, Manifest]) -> None:
    _, out, manifest = trained
    assert manifest.recipe["optim"]["epochs"] == 4
    assert manifest.parent is None
    source = manifest.data["sources"]["toy"]
    assert sum(part["pairs"] for part in source.values()) == 120
    assert manifest.data["trained"] == {"toy": source["train"]["pairs"]}
    assert manifest.reference_scores is not None
    assert sum(manifest.reference_scores.counts) == 2 * source["test"]["pairs"]
    assert len(manifest.git_revision) in (40, len("unknown"))
    assert set(manifest.files) >= {
        "README.md",
        "evaluation.json",
        "head.safetensors",
        "adapter/adapter_model.safetensors",
    }
    # The toy language gives its winners away by a word, and the baselines say so.
    beside = manifest.metrics["held_out"]["toy"]["baselines"]
    assert beside["bag_of_words"]["accuracy"] == 1.0
    assert beside["replies"]["in_training"] == beside["replies"]["distinct"]
    card = (out / "README.md").read_text()
    assert f"| 1.000 | - | {beside['replies']['distinct']}, {beside['replies']['distinct']} in training |" in card
    assert f"{manifest.metrics['held_out']['toy']['accuracy']:.3f}" in card


def test_a_run_goes_on_from_a_checkpoint_and_says_so(
    trained: tuple[Path, Path, Manifest], base: Path, tmp_path: Path
) -> None:
    folder, first, parent = trained
    recipe = _recipe(base, start_from=str(first))
    recipe.id = "toy@2"
    recipe.optim.learning_rate = recipe.optim.head_learning_rate = 1e-9
    recipe.optim.epochs = 1
    manifest = train(recipe, folder, tmp_path / "toy" / "2", None)
    assert manifest is not None
    assert manifest.parent is not None
    assert manifest.parent["id"] == "toy@1"
    assert manifest.parent["recipe"] == parent.recipe
    # At a learning rate of nothing it is the model that it began with.
    pairs = [Pair.model_validate(row) for row in _toy_pairs(20)]
    one, two = (load_checkpoint(path, torch.float32) for path in (first, tmp_path / "toy" / "2"))
    from reward_model.training.evaluation.evaluate import score_pairs

    assert score_pairs(two, pairs).tolist() == pytest.approx(score_pairs(one, pairs), abs=1e-3)


def test_another_architecture_cannot_go_on(trained: tuple[Path, Path, Manifest], base: Path, tmp_path: Path) -> None:
    folder, first, _ = trained
    with pytest.raises(BadInput, match=r"must be those of"):
        train(_recipe(base, start_from=str(first), layers=1), folder, tmp_path / "x", None)


def test_the_same_seed_makes_the_same_model(trained: tuple[Path, Path, Manifest], base: Path, tmp_path: Path) -> None:
    folder, first, _ = trained
    again = tmp_path / "toy" / "1"
    train(_recipe(base), folder, again, None)
    head = "head.safetensors"
    from safetensors.torch import load_file

    one, two = load_file(first / head), load_file(again / head)
    assert torch.allclose(one["weight"], two["weight"], atol=1e-4)


def _equal(count: int) -> list[dict[str, Any]]:
    """Toy pairs whose replies differ only behind the 16 tokens of the recipe."""
    long = "please " * 20
    ids = [f"equal {i}" for i in range(count)]
    texts = {"chosen": long + "good", "rejected": long + "evil"}
    return [{"id": name, "prompt": [{"role": "user", "content": name}], "group": name, **texts} for name in ids]


def test_pairs_that_truncation_makes_equal_are_left_out_and_counted(
    base: Path, tmp_path: Path, jsonl: Callable[[str, list[dict[str, Any]]], Path]
) -> None:
    jsonl("preferences/toy.jsonl", [*_toy_pairs(60), *_equal(40)])
    recipe = _recipe(base)
    recipe.optim.epochs = 1
    manifest = train(recipe, tmp_path, tmp_path / "out", None)
    assert manifest is not None
    assert manifest.data["equal_after_truncation"] == {"toy": 40}
    assert sum(part["pairs"] for part in manifest.data["sources"]["toy"].values()) == 60
    assert "both replies are the same tokens: toy 40." in (tmp_path / "out/report.html").read_text()


def test_a_run_on_nothing_else_says_so(
    base: Path, tmp_path: Path, jsonl: Callable[[str, list[dict[str, Any]]], Path]
) -> None:
    jsonl("preferences/toy.jsonl", _equal(40))
    with pytest.raises(BadInput, match=r"0 pairs to train on .*: 40 of 40 pairs are left out: after truncation"):
        train(_recipe(base), tmp_path, tmp_path / "out", None)
    assert not list(tmp_path.glob("out*"))


def test_data_is_checked_before_training(
    base: Path, tmp_path: Path, jsonl: Callable[[str, list[dict[str, Any]]], Path]
) -> None:
    jsonl("preferences/toy.jsonl", [{"id": "x"}])
    with pytest.raises(BadInput, match=r"toy\.jsonl, line 1: prompt"):
        train(_recipe(base), tmp_path, tmp_path / "out", None)


def _sharded(base: Path, folder: Path) -> Path:
    """The same base, its weights in several files behind an index."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(folder, max_shard_size="20KB")
    assert not (folder / "model.safetensors").exists()
    return folder


def test_a_sharded_base_trains_and_its_checkpoint_is_held_to_every_shard(
    base: Path, tmp_path: Path, jsonl: Callable[[str, list[dict[str, Any]]], Path]
) -> None:
    jsonl("preferences/toy.jsonl", _toy_pairs(60))
    shards = _sharded(base, tmp_path / "shards")
    recipe = _recipe(shards)
    recipe.optim.epochs = 1
    manifest = train(recipe, tmp_path, tmp_path / "out", None)
    assert manifest is not None
    lines = "".join(f"{sha256_of(path)}  {path.name}\n" for path in sorted(shards.glob("*.safetensors")))
    assert manifest.base.weights_sha256 == hashlib.sha256(lines.encode()).hexdigest()
    load_checkpoint(tmp_path / "out")
    last = sorted(shards.glob("*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match="has weights"):
        load_checkpoint(tmp_path / "out")


@pytest.mark.parametrize(
    ("gone", "what"),
    [
        ("model-00002-*.safetensors", "names model-00002.* which is missing"),
        ("model.safetensors.index.json", "has neither model.safetensors nor model.safetensors.index.json"),
    ],
)
def test_a_base_that_no_checkpoint_could_stand_on_is_refused_before_the_first_step(
    base: Path, tmp_path: Path, jsonl: Callable[[str, list[dict[str, Any]]], Path], gone: str, what: str
) -> None:
    jsonl("preferences/toy.jsonl", _toy_pairs(60))
    shards = _sharded(base, tmp_path / "shards")
    for path in shards.glob(gone):
        path.unlink()
    with pytest.raises(RewardModelError, match=what):
        train(_recipe(shards), tmp_path, tmp_path / "out", None)
    assert not (tmp_path / ".out.training").exists()
