"""One TOML file is one curated set: where its pairs come from, which are dropped, how they are mixed."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reward_model.errors import BadInput
from reward_model.faults import first_fault
from reward_model.labels import Label


class _BuildSection(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PairSource(_BuildSection):
    """One file of pairs: `preferences/NAME.jsonl[.gz]` of the data folder, or `path`."""

    path: Path | None = Field(None, description="The file, relative to the recipe.")
    label: Label | None = Field(None, description="Label of the pairs that carry none; without it they are dropped.")
    buckets: dict[str, str] = Field(default_factory=dict, description="New names of the source's buckets.")


class Bucket(_BuildSection):
    """How many pairs of a bucket are wanted."""

    share: float | None = Field(None, gt=0, le=1, description="Of the total; without it, as many as its size earns.")
    floor: int | None = Field(None, ge=0, description="At least so many, as far as they exist.")


class Control(_BuildSection):
    """Pairs that teach what does not make a winner: those of `sources`, and those of a rule."""

    rate: float = Field(gt=0, lt=1, description="Their share of the total, at least.")
    sources: list[str] = Field(default_factory=list, description="Sources whose pairs serve as this control alone.")
    failure_modes: list[str] = Field(default_factory=list, description="Pairs whose loser fails in one of these ways.")
    max_length_ratio: float | None = Field(
        None, gt=0, lt=1, description="Pairs whose winner has at most this share of the loser's characters."
    )

    @model_validator(mode="after")
    def _has_a_rule(self) -> Self:
        if not self.sources and not self.failure_modes and self.max_length_ratio is None:
            raise ValueError("say which pairs it takes: sources, failure_modes or max_length_ratio")
        return self


class Agreement(_BuildSection):
    """What votes decide; a pair with fewer than two is left as it is."""

    min: float = Field(0.6, ge=0, le=1, description="Pairs on whose outcome a smaller share agrees are dropped.")
    soft_labels: bool = Field(True, description="Write the votes' share for the winner as `strength`.")


class Splits(_BuildSection):
    """Shares of the groups that are held out; the hash of a group's name decides."""

    validation: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.1, ge=0, lt=1)
    near_prompts: float | None = Field(
        None, gt=0, le=1, description="Prompts alike by so much count as one that must not stand in two splits."
    )

    @model_validator(mode="after")
    def _leaves_some(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together leave nothing to train on")
        return self


class BuildRecipe(_BuildSection):
    """A curated set."""

    seed: int = 7
    total: int | None = Field(None, gt=0, description="Pairs to keep, of all splits; without it, all.")
    floor: int = Field(0, ge=0, description="At least so many pairs of every bucket, as far as they exist.")
    sources: dict[str, PairSource] = Field(min_length=1)
    buckets: dict[str, Bucket] = Field(default_factory=dict)
    controls: dict[str, Control] = Field(default_factory=dict)
    agreement: Agreement = Field(default_factory=Agreement)
    winner_always_first: Literal["drop", "swap", "keep"] = Field(
        "drop",
        description="A pair judged more than once, each time with the winner first: drop it, or have it judged again "
        "with the replies swapped, or keep it.",
    )
    splits: Splits = Field(default_factory=Splits)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.total is None and (self.controls or self.buckets or self.floor):
            raise ValueError("shares, floors and rates need a total")
        if sum(bucket.share or 0 for bucket in self.buckets.values()) > 1 + 1e-9:
            raise ValueError("the buckets' shares add up to more than 1")
        if sum(control.rate for control in self.controls.values()) > 1:
            raise ValueError("the controls' rates add up to more than 1")
        unknown = {name for control in self.controls.values() for name in control.sources} - self.sources.keys()
        if unknown:
            raise ValueError(f"controls name sources that the recipe does not have: {', '.join(sorted(unknown))}")
        return self


def load_build_recipe(path: Path) -> BuildRecipe:
    """Read a recipe; BadInput names the field at fault."""
    try:
        return BuildRecipe.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not TOML: {error}") from error
    except ValidationError as error:
        raise BadInput(f"{path}: {first_fault(error)}") from error


def source_file(name: str, source: PairSource, recipe: Path, data: Path | None) -> Path:
    """Where a source lies: relative to the recipe, or by its name in the data folder; BadInput where it does not."""
    if source.path is not None:
        return recipe.parent / source.path
    if data is None:
        raise BadInput(f"the source {name} has no path: say with --data where preferences/{name}.jsonl.gz is")
    for found in (data / "preferences" / f"{name}.jsonl.gz", data / "preferences" / f"{name}.jsonl"):
        if found.exists():
            return found
    raise BadInput(f"the recipe names the source {name}, but {data / 'preferences'} has no {name}.jsonl.gz")
