"""`manifest.json` of a checkpoint folder: what the checkpoint is, and the digest of each of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reward_model.calibration import FILE as CALIBRATION_FILE
from reward_model.digests import sha256_of
from reward_model.errors import CheckpointError
from reward_model.model.reward_model import Pooling
from reward_model.text.formatting import FormattingRule

MANIFEST = "manifest.json"


class Base(BaseModel):
    """The model whose first layers the checkpoint stands on: the bundled one, or a folder by path.

    The bundled base is held to the quantised file that it is made from: the layout of the prepared folder may
    change from one version of transformers to the next, its numbers do not.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    weights_sha256: str = Field(
        description="model.safetensors as it was in training; of shards, their lines of sha256sum."
    )
    source_sha256: str | None = Field(None, description="The quantised file, for the bundled base.")
    path: str | None = Field(None, description="Folder of a base that is not bundled.")


class Ensemble(BaseModel):
    """Members, folders beside the manifest; the score is their mean less `deviations` standard deviations.

    Each member's scores are first brought to mean 0 and deviation 1 by what it gave to held-out replies: without
    that, an offset between two members would pass for disagreement.
    """

    model_config = ConfigDict(extra="forbid")

    deviations: float = Field(1.0, ge=0)
    members: list[str] = Field(min_length=2)
    means: list[float]
    scales: list[Annotated[float, Field(gt=0)]]

    @model_validator(mode="after")
    def _one_of_each(self) -> Ensemble:
        if not len(self.members) == len(self.means) == len(self.scales):
            raise ValueError("an ensemble needs one mean and one scale for each member")
        return self


class ScoreHistogram(BaseModel):
    """Reference scores for drift: counts between `edges` (one more than counts)."""

    model_config = ConfigDict(extra="forbid")

    edges: list[float]
    counts: list[int]
    of: str


class Manifest(BaseModel):
    """`manifest.json`: what the checkpoint is, what it needs, what it was trained on and how it measured."""

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = 1
    id: str = Field(pattern=r"^[A-Za-z0-9._-]+@[A-Za-z0-9._-]+$")
    created: str
    base: Base
    layers: int = Field(gt=0)
    hidden_size: int = Field(gt=0)
    pooling: Pooling = "last_completion_token"
    locales: list[str] = Field(default_factory=list, description="Locales with a head of their own.")
    score_clip: tuple[float, float] | None = Field(None, description="Scores are held between these when serving.")
    ensemble: Ensemble | None = Field(None, description="The members whose scores this checkpoint combines.")
    formatting: FormattingRule
    template_sha256: str
    tokenizer_sha256: str
    recipe: dict[str, Any]
    data: dict[str, Any]
    parent: dict[str, Any] | None = Field(None, description="The checkpoint that training went on from.")
    git_revision: str
    metrics: dict[str, Any]
    reference_scores: ScoreHistogram | None = None
    files: dict[str, str] = Field(description="SHA-256 of every file beside the manifest and the calibration.")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint folder; CheckpointError when there is none or it is another format's."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {MANIFEST}") from error
    except ValidationError as error:
        raise CheckpointError(f"{path} cannot be read by this version: {error}") from error


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Record the digests of the folder's files in its manifest and write it."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = {name: sha256_of(folder / name) for name in names if name not in (MANIFEST, CALIBRATION_FILE)}
    complete = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(complete.model_dump_json(indent=1) + "\n")
    return complete
