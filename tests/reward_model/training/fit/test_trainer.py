"""Runs that are killed, shared among processes, stopped early, or made of several models: toy ones, in full."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from reward_model.checkpoint.checkpoint import load_checkpoint
from reward_model.checkpoint.manifest import Manifest, read_manifest
from reward_model.errors import BadInput
from reward_model.labels import Pair
from reward_model.training.evaluation.evaluate import score_pairs
from reward_model.training.fit.recipe import Recipe
from reward_model.training.fit.trainer import last_whole_step
from reward_model.training.runs.run import train

WORDS = ["bill", "card", "refund", "fee", "please", "charged"]
Run = Callable[..., Manifest]


def toy_rows(count: int = 120, locale: str = "en") -> list[dict[str, Any]]:
    """Replies that say `good` win."""
    random = Random(0)
    rows = []
    for i in range(count):
        prompt = [{"role": "user", "content": f"{' '.join(random.choices(WORDS, k=3))} {i}"}]
        good, evil = (f"{word} {random.choice(WORDS)}" for word in ("good", "evil"))
        rows.append(
            {"id": str(i), "prompt": prompt, "chosen": good, "rejected": evil, "group": f"g{i}", "locale": locale}
        )
    return rows


def toml(base: Path, optim: str = "", more: str = "", model: str = "") -> str:
    return (
        f'id = "toy@1"\n{more}\n[model]\nbase = "{base}"\nlayers = 2\nlora_rank = 4\n{model}\n'
        "[formatting]\nmax_prompt_tokens = 64\nmax_completion_tokens = 16\n[sources.toy]\n"
        f"[optim]\nlearning_rate = 5e-3\nhead_learning_rate = 1e-2\nrows_per_step = 8\nbf16 = false\n{optim}\n"
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "preferences").mkdir()
    (tmp_path / "preferences/toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toy_rows()))
    return tmp_path


@pytest.fixture
def run(base: Path, data: Path) -> Run:
    """Train the toy recipe with changes by section; returns the manifest."""

    def go(name: str = "1", **sections: Any) -> Manifest:
        whole: dict[str, Any] = {
            "id": "toy@1",
            "model": {"base": str(base), "layers": 2, "lora_rank": 4},
            "formatting": {"max_prompt_tokens": 64, "max_completion_tokens": 16},
            "sources": {"toy": {}},
            "optim": {
                "epochs": 2,
                "learning_rate": 5e-3,
                "head_learning_rate": 1e-2,
                "rows_per_step": 8,
                "evaluations": 2,
                "bf16": False,
            },
        }
        for section, changes in sections.items():
            whole[section] = {**whole.get(section, {}), **changes} if isinstance(changes, dict) else changes
        manifest = train(Recipe.model_validate(whole), data, data / "out" / name, None)
        assert manifest is not None
        return manifest

    return go


def weights(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{file.name}:{name}": value for file in files for name, value in load_file(file).items()}


def command(data: Path, recipe: Path, out: str) -> list[str]:
    train_ = ["-m", "service", "train", str(recipe), "--data", str(data), "--out", str(data / "out" / out)]
    return [sys.executable, *train_]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def test_a_run_that_is_killed_goes_on_to_the_same_weights(base: Path, data: Path) -> None:
    recipe = data / "toy.toml"
    recipe.write_text(toml(base, "epochs = 8\nevaluations = 8\nhead_start = 50"))
    subprocess.run(command(data, recipe, "whole"), check=True, capture_output=True, env=environment())
    scratch = data / "out" / ".killed.training"
    with subprocess.Popen(
        command(data, recipe, "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        deadline = time.monotonic() + 120
        while not list(scratch.glob("checkpoint-*/whole")):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert not (data / "out/killed").exists()
    # What a kill in the middle of writing leaves is not gone on from.
    (scratch / "checkpoint-9999").mkdir()
    subprocess.run(command(data, recipe, "killed"), check=True, capture_output=True, env=environment())
    expected, found = weights(data / "out/whole"), weights(data / "out/killed")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert not scratch.exists()


def test_a_step_that_was_cut_off_is_thrown_away(tmp_path: Path) -> None:
    assert last_whole_step(tmp_path) is None
    for step, whole in ((5, True), (10, True), (15, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / "whole").touch()
    assert last_whole_step(tmp_path) == str(tmp_path / "checkpoint-10")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-5"]


def test_another_recipe_s_unfinished_run_is_left_alone(run: Run, data: Path) -> None:
    scratch = data / "out/.1.training"
    scratch.mkdir(parents=True)
    (scratch / "recipe.json").write_text("{}")
    with pytest.raises(BadInput, match="unfinished run of another recipe"):
        run()
    assert (scratch / "recipe.json").read_text() == "{}"


def test_validation_is_as_large_as_the_recipe_says(run: Run, data: Path) -> None:
    manifest = run(optim={"epochs": 1, "evaluations": 1, "validation_pairs": 3})
    assert manifest.data["validated_on"] == 3
    with (data / "preferences/toy.jsonl").open("a") as stream:
        extra = {"prompt": [{"role": "user", "content": "x"}], "chosen": "good", "rejected": "evil"}
        stream.writelines(
            json.dumps({**extra, "id": f"v{i}", "group": f"v{i}", "split": "validation"}) + "\n" for i in range(500)
        )
    seen = run("2", optim={"epochs": 0.1, "evaluations": 1, "learning_rate": 1e-9, "head_learning_rate": 1e-9})
    assert seen.data["validated_on"] == seen.data["sources"]["toy"]["validation"]["pairs"] > 500


def test_patience_ends_a_run_early_and_keeps_the_best_step(run: Run, data: Path) -> None:
    # At this rate nothing gets better: the second look is one too many.
    run(optim={"epochs": 50, "evaluations": 50, "patience": 1, "learning_rate": 1e-9, "head_learning_rate": 1e-9})
    log = json.loads((data / "out/1/training_log.json").read_text())
    looks = [entry for entry in log if "eval_accuracy" in entry]
    assert len(looks) == 2


def test_the_best_step_is_the_one_that_is_kept(run: Run, data: Path) -> None:
    # The rate is so high that the run ends in ruins; what is saved is its best step.
    manifest = run(optim={"epochs": 6, "evaluations": 6, "learning_rate": 0.05, "head_learning_rate": 0.05})
    looks = [entry["eval_accuracy"] for entry in manifest.metrics["log"] if "eval_accuracy" in entry]
    model = load_checkpoint(data / "out/1", torch.float32)
    from reward_model.labels import by_split

    validation = by_split([Pair.model_validate(row) for row in toy_rows()])["validation"]
    scores = score_pairs(model, validation)
    assert (scores[:, 0] > scores[:, 1]).mean() == pytest.approx(max(looks), abs=1e-6)


def test_while_the_head_learns_alone_the_adapter_stays_as_it_was(run: Run, data: Path) -> None:
    run(optim={"epochs": 1, "head_only_epochs": 1})
    untouched = [value for name, value in weights(data / "out/1").items() if "lora_B" in name]
    assert untouched
    assert all(value.abs().max() == 0 for value in untouched)
    run("2", optim={"epochs": 1})
    assert any(v.abs().max() > 0 for n, v in weights(data / "out/2").items() if "lora_B" in n)


def test_in_full_only_the_upper_layers_change_and_the_checkpoint_loads(run: Run, data: Path, base: Path) -> None:
    manifest = run(model={"tuning": "full", "trainable_layers": 1}, optim={"learning_rate": 1e-3})
    assert manifest.metrics["held_out"]["toy"]["accuracy"] >= 0.9
    before, after = load_file(base / "model.safetensors"), load_file(data / "out/1/model.safetensors")
    name = "layers.{}.mlp.up_proj.weight"
    assert torch.equal(after[name.format(0)], before["model." + name.format(0)])
    assert not torch.equal(after[name.format(1)], before["model." + name.format(1)])
    assert torch.equal(after["embed_tokens.weight"], before["model.embed_tokens.weight"])
    assert not torch.equal(after["norm.weight"], before["model.norm.weight"])
    pairs = [Pair.model_validate(row) for row in toy_rows()]
    scores = score_pairs(load_checkpoint(data / "out/1", torch.float32), pairs)
    assert (scores[:, 0] > scores[:, 1]).mean() >= 0.9


def test_in_full_everything_learns(run: Run, data: Path, base: Path) -> None:
    run(model={"tuning": "full"}, optim={"learning_rate": 1e-3, "epochs": 1})
    before, after = load_file(base / "model.safetensors"), load_file(data / "out/1/model.safetensors")
    assert [name for name, value in after.items() if torch.equal(value, before[f"model.{name}"])] == []


def test_mean_pooling_is_served_as_it_was_trained(run: Run, data: Path) -> None:
    run(model={"pooling": "mean_completion_tokens"})
    assert read_manifest(data / "out/1").pooling == "mean_completion_tokens"
    model = load_checkpoint(data / "out/1", torch.float32)
    pair = Pair.model_validate(toy_rows(1)[0])
    ids = [*model.formatter.prompt_ids(pair.prompt), *model.formatter.completion_ids(_completion(pair.chosen))]
    assert model.score([ids]).item() == pytest.approx(float(score_pairs(model, [pair])[0, 0]), abs=1e-4)


def _completion(reply: Any) -> Any:
    from reward_model.labels import as_completion

    return as_completion(reply)


def test_an_encoder_trains_and_serves(run: Run, data: Path, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path / "bert"
    folder.mkdir()
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789:?", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789")]
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "evil", *letters])
    )
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=96,
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    manifest = run(model={"base": str(folder), "pooling": "mean_completion_tokens"}, optim={"epochs": 4})
    assert manifest.metrics["held_out"]["toy"]["accuracy"] >= 0.9
    model = load_checkpoint(data / "out/1", torch.float32)
    pairs = [Pair.model_validate(row) for row in toy_rows(12)]
    batched = score_pairs(model, pairs)
    form = model.formatter
    alone = [
        model.score([form.prompt_ids(pair.prompt) + form.completion_ids(_completion(pair.chosen))]).item()
        for pair in pairs
    ]
    assert batched[:, 0].tolist() == pytest.approx(alone, abs=1e-4)


def test_an_ensemble_serves_its_members_mean_less_their_disagreement(run: Run, data: Path) -> None:
    manifest = run(ensemble={"members": 2, "deviations": 0.5}, model={"score_clip": [-1.0, 1.0]})
    how = manifest.ensemble
    assert how is not None
    shards = [set(part) for part in manifest.data["members"].values()]
    assert shards == [{"toy"}, {"toy"}]
    whole = load_checkpoint(data / "out/1", torch.float32)
    parts = [load_checkpoint(data / "out/1" / name, torch.float32) for name in how.members]
    assert [part.id for part in parts] == ["toy-0@1", "toy-1@1"]
    ids = [[5, 9, 30, 41, 7, 2], [8, 8, 12, 2]]
    raw = torch.stack([part.score(ids) for part in parts], dim=1)
    standard = (raw - torch.tensor(how.means)) / torch.tensor(how.scales)
    deviation = (standard[:, 0] - standard[:, 1]).abs() / 2
    expected = (standard.mean(1) - 0.5 * deviation).clamp(-1, 1)
    found = whole.score_members(ids)
    assert torch.allclose(found[:, 0], expected, atol=1e-4)
    assert torch.allclose(found[:, 1], deviation, atol=1e-4)
    assert sorted(path.name for path in (data / "out").iterdir()) == ["1"]


def test_a_head_by_locale_learns_from_its_own_pairs(run: Run, data: Path) -> None:
    german = [{**row, "id": f"de{row['id']}", "group": f"de{row['group']}"} for row in toy_rows(60, "de")]
    for row in german:  # in German, so to speak, evil wins
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    with (data / "preferences/toy.jsonl").open("a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in german)
    manifest = run(model={"locales": ["de"]}, optim={"epochs": 8})
    assert manifest.locales == ["de"]
    # Validated with the heads that serve: by the shared one alone the German pairs would all be wrong.
    looks = [entry["eval_accuracy"] for entry in manifest.metrics["log"] if "eval_accuracy" in entry]
    assert max(looks) >= 0.9
    model = load_checkpoint(data / "out/1", torch.float32)
    form, pair = model.formatter, Pair.model_validate(german[0])
    ids = [form.prompt_ids(pair.prompt) + form.completion_ids(_completion(r)) for r in (pair.chosen, pair.rejected)]
    evil, good = model.score(ids, ["de-AT", "de-AT"]).tolist()
    assert evil > good
    evil, good = model.score(ids, ["en", "en"]).tolist()
    assert good > evil
