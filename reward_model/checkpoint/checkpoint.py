"""A checkpoint: an immutable folder `name/version/` of weights, manifest, calibration and reports.

Loading verifies every file against the manifest, the base model against its digest, the chat template and the
tokenizer against theirs. The adapter is merged in fp32 and cast afterwards: merging in bf16 moves scores by
0.03.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from reward_model.calibration import load_calibration
from reward_model.checkpoint.loaded_model import EnsembleModel, LoadedModel
from reward_model.checkpoint.manifest import Base, Manifest, read_manifest, seal
from reward_model.digests import sha256_of, verify_digests
from reward_model.errors import CheckpointError, IntegrityError
from reward_model.model import base_model
from reward_model.model.reward_model import RewardModel, load_backbone
from reward_model.text.formatting import Formatter, FormattingRule
from reward_model.text.pair_formatting import PairFormatter

ADAPTER = "adapter"
HEAD = "head.safetensors"
WEIGHTS = "model.safetensors"


def load_checkpoint(
    folder: Path, dtype: torch.dtype = torch.bfloat16, device: str | torch.device = "cpu"
) -> LoadedModel:
    """Load and verify a checkpoint folder.

    Raises CheckpointError when it is not one, IntegrityError when a file or its base is not what it was.
    """
    manifest = read_manifest(folder)
    verify_digests(folder, manifest.files)
    base = base_folder(manifest.base)
    formatter = load_formatter(base, manifest.formatting)
    _verify_formatter(folder, manifest, formatter, base)
    module = _assemble(folder, base, manifest, dtype).to(device).eval()
    calibration = load_calibration(folder, manifest.id)
    return LoadedModel(manifest.id, formatter, module, calibration, manifest, torch.device(device))


def base_folder(base: Base) -> Path:
    """Where the base model lies; IntegrityError when its weights are other ones."""
    if base.path is None:
        return _bundled_base(base)
    folder = Path(base.path)
    if not folder.is_dir():
        raise CheckpointError(f"the base {base.name} is not at {folder}")
    if (found := base_model.digest_of(folder)) != base.weights_sha256:
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
