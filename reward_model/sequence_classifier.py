"""Any `AutoModelForSequenceClassification` with one label, from a folder or a hub id, as a reward model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reward_model.chat_formatting import ChatFormatter
from reward_model.errors import CheckpointError
from reward_model.formatting import Formatter, FormattingRule
from reward_model.loaded_model import LoadedModel
from reward_model.pair_formatting import PairFormatter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_LONGEST = 4096


def load_sequence_classifier(name: str, dtype: torch.dtype, device: str | torch.device = "cpu") -> LoadedModel:
    """Load `name`; the repository's own code is never run, and only safetensors are read.

    Raises CheckpointError when it cannot be loaded, has no trained head, or another number of labels than one.
    """
    try:
        config, tokenizer = _read(name)
        if config.num_labels != 1:
            raise CheckpointError(
                f"{name} has {config.num_labels} labels, and a reward model has one: name a model that was trained "
                "with num_labels=1"
            )
        model = _load_weights(name, dtype)
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(f"{name} cannot be loaded as a reward model: {error}") from error
    formatter = _formatter(name, tokenizer, config)
    module = PaddedClassifier(model, tokenizer).to(device).eval()
    return LoadedModel(_identity(name, config), formatter, module, None, None, torch.device(device))


def load_classifier_formatter(name: str) -> Formatter:
    """How the classifier `name` reads texts, without its weights; CheckpointError when it cannot be loaded."""
    try:
        config, tokenizer = _read(name)
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(f"{name} cannot be loaded as a reward model: {error}") from error
    return _formatter(name, tokenizer, config)


def _read(name: str) -> tuple[Any, Any]:
    """Configuration and tokenizer."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    return config, AutoTokenizer.from_pretrained(name, trust_remote_code=False)


def _load_weights(name: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForSequenceClassification

    model, report = AutoModelForSequenceClassification.from_pretrained(
        name, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        # transformers would fill these with random numbers, and every score would be noise.
        raise CheckpointError(f"{name} has no weights for {', '.join(missing)}; it is not a trained reward model")
    return model


def _identity(name: str, config: Any) -> str:
    """`name@commit` from a hub, `folder@local` from a folder, of which no version is known."""
    commit = getattr(config, "_commit_hash", None)
    return f"{name}@{commit[:12]}" if commit else f"{Path(name).resolve().name}@local"


class PaddedClassifier(nn.Module):
    """Gives a sequence classifier what it expects of right-padded rows: mask, padding token, segment ids.

    Rows are padded on the right, so positions count from 0 in each as they do for a row by itself.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.model = model
        self.text_config = model.config.get_text_config()
        self.own_pad: int | None = self.text_config.pad_token_id
        # A tokenizer may list segment ids that its model does not take (DistilBERT).
        takes_segments = "token_type_ids" in inspect.signature(model.forward).parameters
        listed = "token_type_ids" in tokenizer.model_input_names
        self.separator = tokenizer.sep_token_id if listed and takes_segments else None

    def forward(self, input_ids: Tensor, spans: Tensor) -> Tensor:
        """Scores [B]; `spans` [B, 2]: flat positions of the replies' first and last tokens; the last give the mask."""
        rows, width = input_ids.shape
        pool = spans[:, 1]
        places = torch.arange(width, device=input_ids.device)
        lengths = pool - torch.arange(rows, device=input_ids.device) * width + 1
        mask = places.unsqueeze(0) < lengths.unsqueeze(1)
        pad = self._padding(input_ids.flatten()[pool])
        inputs = {"input_ids": input_ids.masked_fill(~mask, pad), "attention_mask": mask.long()}
        if self.separator is not None:
            ends = (input_ids == self.separator).long()
            inputs["token_type_ids"] = ((ends.cumsum(1) - ends) > 0).long() * mask
        logits: Tensor = self.model(**inputs).logits
        return logits[:, 0]

    def score_pooled(self, pooled: Tensor, locales: Sequence[str | None]) -> Tensor:
        """Scores [B] of the last tokens' states [B, H], for causal models, whose head is called `score`."""
        head = self.model.score
        scores: Tensor = head(pooled.to(head.weight.dtype))
        return scores[:, 0]

    def _padding(self, last: Tensor) -> int:
        """The model's own padding token; for a model without one, a token that ends no row of this batch.

        A causal classifier reads the rightmost token that is not padding; without a padding token transformers
        reads the last one, and takes no batch.
        """
        if self.own_pad is not None:
            return self.own_pad
        ends = set(last.tolist())
        pad = next(token for token in range(len(ends) + 1) if token not in ends)
        self.text_config.pad_token_id = pad
        return pad


def _formatter(name: str, tokenizer: Any, config: Any) -> Formatter:
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(f"{name} has no tokenizer.json; save its tokenizer in the fast format first")
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or _LONGEST
    # RoBERTa counts positions from its padding index, so two of them are not to be had.
    longest = min(int(tokenizer.model_max_length), positions - 2, _LONGEST)
    rule = FormattingRule(max_prompt_tokens=longest - longest // 3, max_completion_tokens=longest // 3)
    if not tokenizer.chat_template:
        return PairFormatter(tokenizer, rule, joint=True)
    return ChatFormatter(tokenizer, rule, config.get_text_config().pad_token_id)
