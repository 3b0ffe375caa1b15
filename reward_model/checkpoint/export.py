"""A checkpoint as a one-label sequence classifier, which transformers and vLLM's pooling server load by themselves."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from reward_model.checkpoint.loading import load_model
from reward_model.errors import BadInput, CheckpointError
from reward_model.model.reward_model import RewardModel


def export(name: str, folder: Path, registry: Path | None = None, *, last_token: bool = False) -> dict[str, object]:
    """Write the checkpoint `name` to the new `folder`, merged, in bf16; returns what it is.

    Such a classifier reads the last token. A checkpoint that reads the mean over the completion is another model then:
    it is refused, unless `last_token` says that the scores do not matter (a measurement of speed). Raises BadInput for
    that and for an existing folder, CheckpointError for ensembles, locales and encoders.
    """
    if folder.exists():
        raise BadInput(f"{folder} exists; name a new folder")
    loaded = load_model(name, registry, torch.float32)
    module = loaded.module
    if not isinstance(module, RewardModel) or module.encoder or module.locales:
        raise CheckpointError(
            f"{loaded.id} is no single causal model with one head; it cannot be written as a classifier"
        )
    if module.pooling != "last_completion_token" and not last_token:
        raise BadInput(
            f"{loaded.id} reads the mean over a completion's tokens and a sequence classifier the last one: the scores "
            "would be others. Add --last-token where they do not matter"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(module, loaded.formatter.end_of_turn, scratch)
        loaded.formatter.tokenizer.save_pretrained(scratch)
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return {"orm": loaded.id, "folder": str(folder), "pooling": "last_token", "as_trained": not last_token}


def _write(module: RewardModel, closing: int, folder: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    config: Any = module.backbone.config
    config.num_labels = 1
    # transformers reads the last token that is not padding: it must not be the token that closes a reply.
    config.pad_token_id = 0 if closing != 0 else 1
    classifier: Any = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    classifier.base_model.load_state_dict(module.backbone.state_dict())
    with torch.no_grad():
        # Its bias is lost, which moves every score alike.
        classifier.score.weight.copy_(module.head.weight)
    classifier.to(torch.bfloat16).save_pretrained(folder)
