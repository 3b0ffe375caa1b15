"""What a run would need, against a real model, arithmetic by hand, and a base that has no weights at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from typer.testing import CliRunner

from reward_model.training.cli import train_app
from reward_model.training.fit.build import build, shape_of
from reward_model.training.fit.estimate import batch_cost, estimate
from reward_model.training.fit.recipe import Recipe

Write = Callable[[str, list[dict[str, Any]]], Path]


def _recipe(base: Path, **sections: Any) -> Recipe:
    whole: dict[str, Any] = {
        "id": "toy@1",
        "model": {"base": str(base), "layers": 2},
        "formatting": {"max_prompt_tokens": 64, "max_completion_tokens": 16},
        "sources": {"toy": {}},
        "optim": {"bf16": False, "rows_per_step": 8},
    }
    for name, changes in sections.items():
        whole[name] = {**whole[name], **changes}
    return Recipe.model_validate(whole)


def _rows(count: int) -> list[dict[str, Any]]:
    prompt = [{"role": "user", "content": "My card was charged."}]
    return [
        {"id": str(i), "group": str(i), "prompt": prompt, "chosen": "Please wait.", "rejected": "No.", "split": split}
        for i in range(count)
        for split in ["train" if i % 5 else "validation"]
    ]


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("bf16", [True, False])
def test_the_shape_holds_and_learns_what_the_model_does(base: Path, tuning: str, bf16: bool) -> None:
    recipe = _recipe(base, model={"tuning": tuning}, optim={"bf16": bf16})
    shape, model = shape_of(recipe), build(recipe).model
    for one, two in zip(shape.named_parameters(), model.named_parameters(), strict=True):
        assert (one[0], one[1].shape, one[1].requires_grad, one[1].dtype) == (
            two[0],
            two[1].shape,
            two[1].requires_grad,
            two[1].dtype,
        )
        assert one[1].is_meta


def test_what_is_kept_for_the_backward_pass_is_what_a_real_model_keeps(base: Path) -> None:
    recipe = _recipe(base, model={"tuning": "full"})
    model = build(recipe).model
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_leaf:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    mask = torch.zeros(4, 1, 96, 96)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        states = model.backbone(
            input_ids=torch.zeros(4, 96, dtype=torch.long),
            attention_mask=mask,
            position_ids=torch.arange(96).repeat(4, 1),
            use_cache=False,
        ).last_hidden_state
    assert states.requires_grad
    held = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) + mask.nbytes
    assert batch_cost(shape_of(recipe), 4, 96, False).activations == pytest.approx(held, rel=0.25)


def test_operations_by_hand(base: Path) -> None:
    cost = batch_cost(shape_of(_recipe(base, model={"tuning": "full"})), 3, 20, False)
    # Hidden 32, keys and values 16 wide, MLP 64: 2 * (32*32 + 32*16) + 3 * 32*64 weights in each of two layers.
    linear = 2 * 60 * 2 * (2 * (32 * 32 + 32 * 16) + 3 * 32 * 64)
    # Queries by keys and weights by values, 32 wide: 2 * 2 * 20 * 20 * 32 for each of 3 sequences.
    attention = 2 * 3 * 2 * 2 * 20 * 20 * 32
    # The position encoding multiplies 4 frequencies by 20 positions, once.
    assert cost.forward == pytest.approx(linear + attention, rel=0.01)
    assert cost.both == pytest.approx(3 * (linear + attention), rel=0.02)


def test_no_weight_is_read(base: Path, tmp_path: Path, jsonl: Write) -> None:
    jsonl("preferences/toy.jsonl", _rows(100))
    folder = tmp_path / "base"
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    result = estimate(_recipe(folder, optim={"epochs": 2}), tmp_path, None)
    # 80 training pairs in rows of their own, 8 a step, twice.
    assert (result["pairs"], result["steps"], result["layers"]) == (80, 20, 2)
    assert result["memory_gb"]["total"] == pytest.approx(
        sum(value for name, value in result["memory_gb"].items() if name != "total"), abs=2e-3
    )
    assert result["fits"]
    assert result["hours"] >= 0


def test_memory_grows_with_what_learns_and_time_with_the_epochs(base: Path, tmp_path: Path, jsonl: Write) -> None:
    jsonl("preferences/toy.jsonl", _rows(400))
    lora, full = (estimate(_recipe(base, model={"tuning": tuning}), tmp_path, None) for tuning in ("lora", "full"))
    assert full["learned_parameters"] == full["parameters"]
    assert lora["learned_parameters"] < lora["parameters"] / 4
    longer = estimate(_recipe(base, model={"tuning": "full"}, optim={"epochs": 20}), tmp_path, None)
    assert longer["steps"] == 10 * full["steps"]
    assert longer["teraflops_in_all"] > 5 * full["teraflops_in_all"]


def test_the_command_says_it_and_trains_nothing(base: Path, tmp_path: Path, jsonl: Write) -> None:
    jsonl("preferences/toy.jsonl", _rows(100))
    recipe = tmp_path / "toy.toml"
    recipe.write_text(
        f'id = "toy@1"\n[model]\nbase = "{base}"\nlayers = 2\n[sources.toy]\n'
        "[formatting]\nmax_prompt_tokens = 64\nmax_completion_tokens = 16\n"
    )
    out = tmp_path / "out"
    done = CliRunner().invoke(train_app, [str(recipe), "--data", str(tmp_path), "--out", str(out), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["orm"] == "toy@1"
    assert not list(tmp_path.glob("*out*"))
