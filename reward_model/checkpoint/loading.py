"""A reward model by name: a checkpoint of ours, or any one-label sequence classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from reward_model.checkpoint.checkpoint import base_folder, load_checkpoint, load_formatter
from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.checkpoint.manifest import read_manifest
from reward_model.checkpoint.sequence_classifier import LONGEST, load_classifier_formatter, load_sequence_classifier
from reward_model.errors import CheckpointError, UnknownModel
from reward_model.registry.registry import resolve
from reward_model.text.formatting import Formatter

T = TypeVar("T")


def load_model(
    name: str,
    registry: Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    longest: int = LONGEST,
) -> LoadedModel:
    """Load what the registry calls `name`; else the sequence classifier in that folder, or of that hub id, which
    reads at most `longest` tokens.

    Raises UnknownModel when there is neither, and what `load_checkpoint` raises.
    """
    return _load(
        name,
        registry,
        lambda folder: load_checkpoint(folder, dtype, device),
        lambda: load_sequence_classifier(name, dtype, device, longest),
    )


def load_formatter_of(name: str, registry: Path | None = None) -> Formatter:
    """How the model that `load_model` would load reads texts, without its weights."""
    return _load(name, registry, _checkpoint_formatter, lambda: load_classifier_formatter(name))


def _checkpoint_formatter(folder: Path) -> Formatter:
    manifest = read_manifest(folder)
    return load_formatter(base_folder(manifest.base), manifest.formatting)


def _load(name: str, registry: Path | None, checkpoint: Callable[[Path], T], classifier: Callable[[], T]) -> T:
    try:
        folder = resolve(name, registry)
    except UnknownModel as unknown:
        # A hub id or a path has a slash; a plain name is a mistyped checkpoint, and no hub need be asked.
        if "/" not in name:
            raise
        try:
            return classifier()
        except CheckpointError as error:
            raise UnknownModel(f"{unknown}; and as a sequence classifier: {error}") from error
    return checkpoint(folder)
