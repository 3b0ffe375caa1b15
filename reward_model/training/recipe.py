"""One TOML file is one training run: what is kept, what is read, how it is optimised."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reward_model.errors import BadInput
from reward_model.formatting import FormattingRule


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Source(_Section):
    """One file of pairs, by its name without `.jsonl.gz`."""

    max_pairs: int | None = Field(None, gt=0, description="Train on at most this many pairs, drawn by seed.")
    repeat: int = Field(1, gt=0, description="Times each pair is seen in an epoch.")


class ModelRecipe(_Section):
    """What is kept of the base, and what is learned on top."""

    base: str = Field("bundled", description="`bundled`, or a folder of a causal model.")
    layers: int = Field(12, gt=0)
    lora_rank: int = Field(8, gt=0)
    lora_alpha: int = Field(16, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    start_from: Path | None = Field(
        None, description="Folder of a finished checkpoint of the same architecture, to go on from."
    )


class OptimRecipe(_Section):
    """AdamW with a cosine schedule."""

    epochs: float = Field(2.0, gt=0)
    learning_rate: float = Field(3e-4, gt=0)
    head_learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_share: float = Field(0.05, ge=0, lt=1)
    rows_per_step: int = Field(4, gt=0)
    max_row_tokens: int = Field(1536, gt=0)
    evaluations: int = Field(4, gt=0, description="Times that the run is validated and saved on its way.")
    bf16: bool = Field(True, description="Frozen weights and products in bf16; what is learned stays fp32.")
    seed: int = 7


class Recipe(_Section):
    """A run: `id` is the checkpoint it makes, name@version."""

    id: str = Field(pattern=r"^[A-Za-z0-9._-]+@[A-Za-z0-9._-]+$")
    model: ModelRecipe = Field(default_factory=ModelRecipe)
    formatting: FormattingRule = Field(default_factory=FormattingRule)
    sources: dict[str, Source]
    authored: Source | None = Field(None, description="Pairs of the project's own labelled replies.")
    optim: OptimRecipe = Field(default_factory=OptimRecipe)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; BadInput names the field at fault."""
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
