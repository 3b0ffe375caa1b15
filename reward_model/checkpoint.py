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
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reward_model import base_model
from reward_model.base_model import sha256_of
from reward_model.calibration import FILE as CALIBRATION_FILE
from reward_model.calibration import Calibration, load_calibration
from reward_model.errors import CheckpointError, IntegrityError
from reward_model.formatting import Formatter, FormattingRule
from reward_model.model import Pooling, RewardModel, load_backbone
from reward_model.pair_formatting import PairFormatter

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


@dataclass(frozen=True)
class LoadedModel:
    """A reward model ready to score, whatever its architecture."""

    id: str
    formatter: Formatter
    module: nn.Module
    calibration: Calibration | None
    manifest: Manifest | None
    device: torch.device

    def score(self, sequences: Sequence[Sequence[int]], locales: Sequence[str | None] | None = None) -> Tensor:
        """Raw scores [B] in fp32 on the CPU for B token sequences of any lengths: an ensemble's conservative ones."""
        return self.score_members(sequences, locales)[:, 0]

    @torch.inference_mode()
    def score_members(self, sequences: Sequence[Sequence[int]], locales: Sequence[str | None] | None = None) -> Tensor:
        """[B, 2]: the score, and by how much an ensemble's members disagree (their deviation; 0 for one model)."""
        lengths = torch.tensor([len(ids) for ids in sequences])
        padded = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)
        for row, ids in zip(padded, sequences, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        # Padding is on the right of a causal model, where no real token looks: it needs no mask.
        begins = torch.arange(len(sequences)) * padded.shape[1]
        starts = torch.tensor([self.formatter.completion_start(ids) for ids in sequences])
        spans = torch.stack([begins + starts, begins + lengths - 1], dim=1).to(self.device)
        scores = self._forward(padded.to(self.device), spans, lengths, locales).float().cpu()
        if self.manifest is not None and self.manifest.score_clip is not None:
            scores[:, 0].clamp_(*self.manifest.score_clip)
        return scores

    def _forward(self, ids: Tensor, spans: Tensor, lengths: Tensor, locales: Sequence[str | None] | None) -> Tensor:
        """[B, 2] of score and disagreement."""
        members = self.module.members if isinstance(self.module, EnsembleModel) else [self.module]
        found = [_scores_of(member, ids, spans, lengths, locales) for member in members]
        if isinstance(self.module, EnsembleModel):
            return self.module.combine(torch.stack(found, dim=1))
        return torch.stack([found[0], torch.zeros_like(found[0])], dim=1)


class EnsembleModel(nn.Module):
    """Several reward models, one score: mean - k * deviation (Coste et al., 2024, worst-case flavour)."""

    def __init__(self, members: Sequence[nn.Module], how: Ensemble) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.how = how

    def combine(self, scores: Tensor) -> Tensor:
        """[B, members] to [B, 2]: the conservative score, and the members' population deviation."""
        means, scales = scores.new_tensor(self.how.means), scores.new_tensor(self.how.scales)
        standard = (scores - means) / scales
        deviation = standard.std(dim=1, correction=0)
        return torch.stack([standard.mean(dim=1) - self.how.deviations * deviation, deviation], dim=1)


def _scores_of(
    module: nn.Module, ids: Tensor, spans: Tensor, lengths: Tensor, locales: Sequence[str | None] | None
) -> Tensor:
    extra: dict[str, Tensor] = {}
    if isinstance(module, RewardModel):
        if module.encoder:
            # In an encoder a token sees what is on its right, so the padding has to be masked.
            extra["attention_mask"] = (torch.arange(ids.shape[1]) < lengths.unsqueeze(1)).long().to(ids.device)
        if locales is not None and module.locales:
            extra["locales"] = torch.tensor([module.locale_number(name) for name in locales], device=ids.device)
    scores: Tensor = module(ids, spans=spans, **extra)
    return scores


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
    module = _assemble(folder, base, manifest, dtype).to(device).eval()
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
    return Formatter(tokenizer, rule) if tokenizer.chat_template else PairFormatter(tokenizer, rule)


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


def _assemble(folder: Path, base: Path, manifest: Manifest, dtype: torch.dtype) -> nn.Module:
    if manifest.ensemble is not None:
        parts = [folder / name for name in manifest.ensemble.members]
        return EnsembleModel([_assemble(part, base, read_manifest(part), dtype) for part in parts], manifest.ensemble)
    backbone = load_backbone(base, manifest.layers, torch.float32)
    if (folder / ADAPTER).is_dir():
        backbone = load_adapter(folder, backbone).merge_and_unload()
    model = RewardModel(backbone, manifest.hidden_size, manifest.pooling, manifest.locales)
    if (folder / WEIGHTS).is_file():
        load_tuned_backbone(folder, model)
    load_head(folder, model)
    # The head stays in fp32: it is nothing to compute, and rounding it would move every score.
    model.backbone.to(dtype)
    return model


def load_tuned_backbone(folder: Path, model: RewardModel) -> None:
    """Put the backbone of a checkpoint that was tuned in full, not by an adapter, into `model`."""
    model.backbone.load_state_dict(load_file(folder / WEIGHTS), strict=True)


def save_checkpoint(
    folder: Path, tuned: Any, head: nn.Linear, manifest: Manifest, texts: dict[str, str] | None = None
) -> Manifest:
    """Write a checkpoint atomically: all of it appears at `folder`, or nothing.

    `tuned` is the PEFT model around the backbone, a backbone tuned in full, or None for a bare head; `texts` are
    files such as README.md. `manifest.files` is filled in here. Raises CheckpointError when `folder` exists:
    checkpoints are immutable.
    """
    if folder.exists():
        raise CheckpointError(f"{folder} exists; checkpoints are immutable, so choose another version")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as scratch:
        made = Path(scratch) / folder.name
        made.mkdir()
        if hasattr(tuned, "peft_config"):
            _save_adapter(tuned, made / ADAPTER, manifest.base.name)
        elif tuned is not None:
            save_file({k: v.detach().contiguous() for k, v in tuned.state_dict().items()}, made / WEIGHTS)
        save_file({k: v.detach().float().contiguous() for k, v in head.state_dict().items()}, made / HEAD)
        for name, text in (texts or {}).items():
            (made / name).write_text(text)
        for path in made.rglob("*.safetensors"):
            path.chmod(0o644)  # safetensors writes files that only their owner can read
        complete = seal(made, manifest)
        made.rename(folder)
    return complete


def save_ensemble(
    folder: Path, members: Sequence[Path], manifest: Manifest, texts: dict[str, str] | None = None
) -> Manifest:
    """Write the checkpoint that holds whole checkpoints as members, atomically."""
    if folder.exists():
        raise CheckpointError(f"{folder} exists; checkpoints are immutable, so choose another version")
    assert manifest.ensemble is not None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as scratch:
        made = Path(scratch) / folder.name
        for source, name in zip(members, manifest.ensemble.members, strict=True):
            shutil.copytree(source, made / name)
        for name, text in (texts or {}).items():
            (made / name).write_text(text)
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
