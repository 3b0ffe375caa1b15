"""What a run trains: a base's layers under an adapter, or learning in full, with a scalar head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from reward_model.checkpoint.checkpoint import load_adapter, load_formatter, load_head, load_tuned_backbone
from reward_model.errors import BadInput
from reward_model.model import base_model
from reward_model.model.reward_model import RewardModel, backbone_shape, layers_of, load_backbone, lora_targets
from reward_model.text.formatting import Formatter
from reward_model.training.fit.recipe import ModelRecipe, Recipe


@dataclass
class Trainee:
    """The reward model (its backbone a PEFT model, or tuned in full), its formatter and its base's folder."""

    model: RewardModel
    formatter: Formatter
    base: Path


def build(recipe: Recipe) -> Trainee:
    """A reward model to be trained: what learns is in fp32, fresh or from a finished checkpoint.

    Raises BadInput when the base has fewer layers than the recipe keeps, or too few positions.
    """
    set_seed(recipe.optim.seed)
    wanted, base = recipe.model, base_of(recipe)
    model = _model(recipe, base, load_backbone)
    if wanted.start_from is not None:
        if wanted.tuning == "full":
            load_tuned_backbone(wanted.start_from, model)
        load_head(wanted.start_from, model)
    return Trainee(model, load_formatter(base, recipe.formatting), base)


def shape_of(recipe: Recipe) -> RewardModel:
    """The same model on the meta device: what it would hold and learn, with no weight read.

    What a recipe starts from has the same shape as what it would start with.
    """
    fresh = recipe.model_copy(update={"model": recipe.model.model_copy(update={"start_from": None})})
    with torch.device("meta"):
        return _model(fresh, base_of(recipe), backbone_shape)


def _model(recipe: Recipe, base: Path, load: Callable[[Path, int | None, torch.dtype], Any]) -> RewardModel:
    wanted = recipe.model
    frozen_in_bf16 = recipe.optim.bf16 and wanted.tuning == "lora"
    try:
        backbone = load(base, wanted.layers, torch.bfloat16 if frozen_in_bf16 else torch.float32)
    except (OSError, ValueError) as error:
        raise BadInput(f"the base {base} cannot be used: {error}") from error
    _check_positions(recipe, backbone)
    hidden = int(backbone.config.hidden_size)
    tuned = _under_adapter(backbone, wanted) if wanted.tuning == "lora" else _in_full(backbone, wanted)
    return RewardModel(tuned, hidden, wanted.pooling, wanted.locales)


def base_of(recipe: Recipe) -> Path:
    """Folder of the recipe's base model."""
    return base_model.prepare() if recipe.model.base == "bundled" else Path(recipe.model.base)


def formatter_of(recipe: Recipe) -> Formatter:
    """How the recipe's model will read texts; BadInput when its base cannot be used."""
    base = base_of(recipe)
    try:
        return load_formatter(base, recipe.formatting)
    except (OSError, ValueError) as error:
        raise BadInput(f"the base {base} cannot be used: {error}") from error


def _under_adapter(backbone: Any, recipe: ModelRecipe) -> Any:
    if recipe.start_from is not None:
        return load_adapter(recipe.start_from, backbone, trainable=True)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=lora_targets(backbone),
        layers_to_transform=_upper(backbone, recipe.trainable_layers),
        bias="none",
    )
    return get_peft_model(backbone, config)


def _in_full(backbone: Any, recipe: ModelRecipe) -> Any:
    """Everything learns, embeddings and final norm included, or the upper layers with what stands above them."""
    upper = _upper(backbone, recipe.trainable_layers)
    backbone.requires_grad_(upper is None)
    for number in upper or ():
        layers_of(backbone)[number].requires_grad_(True)
    if (norm := getattr(backbone, "norm", None)) is not None:
        norm.requires_grad_(True)
    return backbone


def _upper(backbone: Any, count: int | None) -> list[int] | None:
    """Numbers of the upper `count` layers; None for all."""
    total = len(layers_of(backbone))
    return None if count is None else list(range(max(0, total - count), total))


def _check_positions(recipe: Recipe, backbone: Any) -> None:
    longest = recipe.formatting.max_prompt_tokens + recipe.formatting.max_completion_tokens
    room = int(backbone.config.max_position_embeddings)
    if longest > room:
        raise BadInput(
            f"[formatting] allows {longest} tokens, the base {room}: lower max_prompt_tokens or max_completion_tokens"
        )
