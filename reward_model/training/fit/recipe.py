"""The recipe of a training run, one TOML file: model, data, loss and optimiser."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reward_model.errors import BadInput
from reward_model.faults import first_fault
from reward_model.model.reward_model import Pooling
from reward_model.text.formatting import FormattingRule
from reward_model.training.fit.losses import LossRecipe


class _RecipeSection(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Source(_RecipeSection):
    """One file of pairs: `preferences/NAME.jsonl[.gz]` of the data folder, or `path`."""

    path: Path | None = Field(None, description="The file, relative to the recipe.")
    max_pairs: int | None = Field(None, gt=0, description="Train on at most this many pairs, drawn by seed.")
    repeat: int = Field(1, gt=0, description="Times each pair is seen in an epoch.")
    ties: bool = Field(False, description="Learn from ties too: for a loss with a place for them, or soft labels.")
    winners_acceptable: bool = Field(
        False,
        description="Where a pair does not say: its winner would be sent and its loser would not, as in a set written "
        "so. For the losses `outside_option` and `pointwise`.",
    )


class ModelRecipe(_RecipeSection):
    """What is kept of the base, and what is learned on top."""

    base: str = Field("bundled", description="`bundled`, or a folder: the SFT checkpoint, a causal model, an encoder.")
    layers: int | None = Field(12, gt=0, description="The first k layers are kept; without a number, all.")
    pooling: Pooling = "last_completion_token"
    tuning: Literal["lora", "full"] = "lora"
    trainable_layers: int | None = Field(
        None, gt=0, description="Only the upper k of the kept layers learn (in full, with the final norm)."
    )
    lora_rank: int = Field(8, gt=0)
    lora_alpha: int = Field(16, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    locales: list[str] = Field(default_factory=list, description="Locales that get a head of their own.")
    score_clip: tuple[float, float] | None = Field(None, description="Bounds of the scores when serving.")
    start_from: Path | None = Field(
        None, description="Folder of a finished checkpoint of the same architecture, to go on from."
    )


class OptimRecipe(_RecipeSection):
    """AdamW with a cosine schedule."""

    epochs: float = Field(2.0, gt=0)
    head_start: int = Field(
        0, ge=0, description="The head starts from a logistic regression on the frozen states of so many pairs."
    )
    head_only_epochs: float = Field(0.0, ge=0, description="The head learns alone this long; then the layers join.")
    learning_rate: float = Field(3e-4, gt=0)
    head_learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_share: float = Field(0.05, ge=0, lt=1)
    rows_per_step: int = Field(4, gt=0)
    max_row_tokens: int = Field(1536, gt=0)
    accumulate: int = Field(1, gt=0, description="Batches of rows whose gradients make one step.")
    share_prefix: bool = Field(True, description="Compute a prompt once for all its replies (not in an encoder).")
    evaluations: int = Field(4, gt=0, description="Times that the run is validated and saved on its way.")
    validation_pairs: int = Field(
        2000, gt=0, description="Validate on at most this many pairs, in whole groups drawn by seed."
    )
    patience: int | None = Field(None, gt=0, description="Stop after so many validations without a better accuracy.")
    bf16: bool = Field(True, description="Frozen weights and products in bf16; what is learned stays fp32.")
    seed: int = 7


class EnsembleRecipe(_RecipeSection):
    """Members that learn from different shards of the groups, served as one conservative score."""

    members: int = Field(2, gt=1)
    deviations: float = Field(1.0, ge=0, description="The score is the members' mean less so many deviations.")


class Recipe(_RecipeSection):
    """A run: `id` is the checkpoint it makes, name@version."""

    id: str = Field(pattern=r"^[A-Za-z0-9._-]+@[A-Za-z0-9._-]+$")
    model: ModelRecipe = Field(default_factory=ModelRecipe)
    formatting: FormattingRule = Field(default_factory=FormattingRule)
    sources: dict[str, Source]
    authored: Source | None = Field(None, description="Pairs of the project's own labelled replies.")
    loss: LossRecipe = Field(default_factory=LossRecipe)
    optim: OptimRecipe = Field(default_factory=OptimRecipe)
    ensemble: EnsembleRecipe | None = None

    @model_validator(mode="after")
    def _a_start_at_most(self) -> Recipe:
        if self.model.start_from is not None and self.optim.head_start:
            raise ValueError("model.start_from brings a head that has learned: leave optim.head_start at 0")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a recipe, its paths made relative to the working folder; BadInput names the field at fault."""
    try:
        return resolved(Recipe.model_validate(tomllib.loads(path.read_text())), path.parent)
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        raise BadInput(f"{path}: {first_fault(error)}") from error


def resolved(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with its sources' paths found from `folder`, where the recipe lies."""
    found = {
        name: source.model_copy(update={"path": folder / source.path}) if source.path else source
        for name, source in recipe.sources.items()
    }
    return recipe.model_copy(update={"sources": found})
