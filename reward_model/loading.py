"""A reward model by name: a checkpoint of ours, or any one-label sequence classifier."""

from __future__ import annotations

from pathlib import Path

import torch

from reward_model.checkpoint import load_checkpoint
from reward_model.errors import CheckpointError, UnknownModel
from reward_model.loaded_model import LoadedModel
from reward_model.registry import resolve
from reward_model.sequence_classifier import load_sequence_classifier


def load_model(
    name: str,
    registry: Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
) -> LoadedModel:
    """Load what the registry calls `name`; else the sequence classifier in that folder, or of that hub id.

    Raises UnknownModel when there is neither, and what `load_checkpoint` raises.
    """
    try:
        folder = resolve(name, registry)
    except UnknownModel as unknown:
        # A hub id or a path has a slash; a plain name is a mistyped checkpoint, and no hub need be asked.
        if "/" not in name:
            raise
        try:
            return load_sequence_classifier(name, dtype, device)
        except CheckpointError as error:
            raise UnknownModel(f"{unknown}; and as a sequence classifier: {error}") from error
    return load_checkpoint(folder, dtype, device)
