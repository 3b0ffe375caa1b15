"""A checkpoint: an immutable folder `name/version/` of weights, manifest, calibration and reports.

Loading verifies every file against the manifest, the base model against its digest, the chat template and the
tokenizer against theirs. The adapter is merged in fp32 and cast afterwards: merging in bf16 moves scores by
0.03.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reward_model import base_model
from reward_model.base_model import sha256_of
from reward_model.calibration import FILE as CALIBRATION_FILE
from reward_model.calibration import Calibration, load_calibration
from reward_model.errors import CheckpointError, IntegrityError
from reward_model.formatting import Formatter, FormattingRule
from reward_model.model import RewardModel, load_backbone

MANIFEST = "manifest.json"
ADAPTER = "adapter"
HEAD = "head.safetensors"
WEIGHTS = "model.safetensors"


class Base(BaseModel):
    """The model whose first layers the checkpoint stands on: the bundled one, or a folder by path.

    The bundled base is held to the quantised file that it is made from: the layout of the prepared folder may
    change from one version of transformers to the next, its numbers do not.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    weights_sha256: str = Field(description="model.safetensors as it was in training.")
    source_sha256: str | None = Field(None, description="The quantised file, for the bundled base.")
    path: str | None = Field(None, description="Folder of a base that is not bundled.")


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
    pooling: Literal["last_completion_token"] = "last_completion_token"
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


@dataclass(frozen=True)
class LoadedModel:
    """A reward model ready to score, whatever its architecture."""

    id: str
    formatter: Formatter
    module: nn.Module
    calibration: Calibration | None
    manifest: Manifest | None
    device: torch.device

    @torch.inference_mode()
    def score(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Raw scores [B] in fp32 on the CPU for B token sequences of any lengths."""
        lengths = torch.tensor([len(ids) for ids in sequences])
        padded = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)
        for row, ids in zip(padded, sequences, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        # Padding is on the right of a causal model, where no real token looks: it needs no mask.
        ends = torch.arange(len(sequences)) * padded.shape[1] + lengths - 1
        scores: Tensor = self.module(padded.to(self.device), pool=ends.to(self.device))
        return scores.float().cpu()


def load_checkpoint(
    folder: Path, dtype: torch.dtype = torch.bfloat16, device: str | torch.device = "cpu"
) -> LoadedModel:
    """Load and verify a checkpoint folder.

    Raises CheckpointError when it is not one, IntegrityError when a file or its base is not what it was.
    """
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    base = base_folder(manifest.base)
    formatter = load_formatter(base, manifest.formatting)
    _verify_formatter(folder, manifest, formatter, base)
    module = _assemble(folder, base, manifest)
    # The head stays in fp32: it is nothing to compute, and rounding it would move every score.
    module.backbone.to(dtype)
    module.to(device).eval()
    calibration = load_calibration(folder, manifest.id)
    return LoadedModel(manifest.id, formatter, module, calibration, manifest, torch.device(device))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint folder; CheckpointError when there is none or it is another format's."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {MANIFEST}") from error
    except ValidationError as error:
        raise CheckpointError(f"{path} cannot be read by this version: {error}") from error


def verify_files(folder: Path, manifest: Manifest) -> None:
    """IntegrityError when a listed file is missing or changed, or a weight file is not listed."""
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise IntegrityError(f"{folder}: {name} is missing")
        if (found := sha256_of(path)) != digest:
            raise IntegrityError(f"{folder}: {name} has SHA-256 {found}, the manifest says {digest}")
    for path in folder.rglob("*.safetensors"):
        if (name := path.relative_to(folder).as_posix()) not in manifest.files:
            raise IntegrityError(f"{folder}: {name} is not listed in the manifest")


def base_folder(base: Base) -> Path:
    """Where the base model lies; IntegrityError when its weights are other ones."""
    if base.path is None:
        return _bundled_base(base)
    folder = Path(base.path)
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"the base {base.name} is not at {folder}")
    if (found := sha256_of(folder / WEIGHTS)) != base.weights_sha256:
        raise IntegrityError(f"the base {base.name} has weights {found}, the checkpoint needs {base.weights_sha256}")
    return folder


def _bundled_base(base: Base) -> Path:
    if base.name != base_model.NAME:
        raise CheckpointError(f"the base {base.name} is not bundled and the manifest names no path")
    if base.source_sha256 != base_model.GGUF_SHA256:
        raise IntegrityError(
            f"the checkpoint stands on {base.name} from the file {base.source_sha256}; "
            f"this version bundles {base_model.GGUF_SHA256}"
        )
    folder = base_model.prepare()
    base_model.verify(folder)
    return folder


def load_formatter(base: Path, rule: FormattingRule) -> Formatter:
    """The formatter with the base model's tokenizer."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(base))
    return Formatter(tokenizer, rule)


def tokenizer_sha256(base: Path) -> str:
    """Digest of `tokenizer.json`."""
    return sha256_of(base / "tokenizer.json")


def _verify_formatter(folder: Path, manifest: Manifest, formatter: Formatter, base: Path) -> None:
    if formatter.template_sha256 != manifest.template_sha256:
        raise IntegrityError(f"{folder}: the base's chat template is not the one of training")
    if tokenizer_sha256(base) != manifest.tokenizer_sha256:
        raise IntegrityError(f"{folder}: the base's tokenizer is not the one of training")


def load_adapter(folder: Path, backbone: Any, trainable: bool = False) -> Any:
    """`backbone` under the LoRA adapter of a checkpoint, as a PEFT model."""
    from peft import PeftModel

    return PeftModel.from_pretrained(backbone, str(folder / ADAPTER), is_trainable=trainable)


def load_head(folder: Path, model: RewardModel) -> None:
    """Put a checkpoint's head, in fp32, into `model`."""
    model.head.load_state_dict({k: v.float() for k, v in load_file(folder / HEAD).items()})


def _assemble(folder: Path, base: Path, manifest: Manifest) -> RewardModel:
    backbone = load_backbone(base, manifest.layers, torch.float32)
    if (folder / ADAPTER).is_dir():
        backbone = load_adapter(folder, backbone).merge_and_unload()
    model = RewardModel(backbone, manifest.hidden_size)
    load_head(folder, model)
    return model


def save_checkpoint(
    folder: Path, adapted: Any, head: nn.Linear, manifest: Manifest, texts: dict[str, str] | None = None
) -> Manifest:
    """Write a checkpoint atomically: all of it appears at `folder`, or nothing.

    `adapted` is the PEFT model around the backbone, or None for a bare head; `texts` are files such as
    README.md. `manifest.files` is filled in here. Raises CheckpointError when `folder` exists: checkpoints
    are immutable.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} exists; checkpoints are immutable, so choose another version")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        if adapted is not None:
            _save_adapter(adapted, made / ADAPTER, manifest.base.name)
        save_file({k: v.detach().float().contiguous() for k, v in head.state_dict().items()}, made / HEAD)
        for name, text in (texts or {}).items():
            (made / name).write_text(text)
        for path in made.rglob("*.safetensors"):
            path.chmod(0o644)  # safetensors writes files that only their owner can read
        complete = seal(made, manifest)
        made.rename(folder)
    return complete


def _save_adapter(adapted: Any, folder: Path, base: str) -> None:
    # PEFT records where the base lay on this machine; the manifest names it by its digest.
    adapted.peft_config["default"].base_model_name_or_path = base
    # Embeddings are never trained; left on "auto", PEFT would ask a hub whether they were.
    adapted.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Record the digests of the folder's files in its manifest and write it."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = {name: sha256_of(folder / name) for name in names if name not in (MANIFEST, CALIBRATION_FILE)}
    complete = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(complete.model_dump_json(indent=1) + "\n")
    return complete


def replace_checkpoint(source: Path, target: Path) -> None:
    """Put a finished folder in another's place, for example the trainer's output into the package."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
