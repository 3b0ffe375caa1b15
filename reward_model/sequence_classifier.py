"""Any `AutoModelForSequenceClassification` with one label, from a folder or a hub id, as a reward model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reward_model.checkpoint import LoadedModel
from reward_model.errors import BadInput, CheckpointError
from reward_model.formatting import Completion, Formatter, FormattingRule, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_LONGEST = 4096


def load_sequence_classifier(name: str, dtype: torch.dtype, device: str | torch.device = "cpu") -> LoadedModel:
    """Load `name`; the repository's own code is never run, and only safetensors are read.

    Raises CheckpointError when it cannot be loaded or has another number of labels than one.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.num_labels != 1:
            raise CheckpointError(f"{name} has {config.num_labels} labels; a reward model has one (num_labels=1)")
        tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=dtype, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(f"{name} cannot be loaded as a reward model: {error}") from error
    formatter = _formatter(tokenizer, config)
    module = _Padded(model, tokenizer).to(device).eval()
    return LoadedModel(f"{name}@hub", formatter, module, None, None, torch.device(device))


class _Padded(nn.Module):
    """Gives a sequence classifier what it expects of right-padded rows: mask, padding token, segment ids."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.model = model
        self.pad = _first_set(tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        # A causal classifier finds the last token by looking for padding.
        model.config.get_text_config().pad_token_id = self.pad
        self.separator = tokenizer.sep_token_id if "token_type_ids" in tokenizer.model_input_names else None

    def forward(self, input_ids: Tensor, pool: Tensor) -> Tensor:
        """Scores [B]; `pool`: flat positions of the last tokens, from which the mask follows."""
        rows, width = input_ids.shape
        places = torch.arange(width, device=input_ids.device)
        lengths = pool - torch.arange(rows, device=input_ids.device) * width + 1
        mask = places.unsqueeze(0) < lengths.unsqueeze(1)
        inputs = {"input_ids": input_ids.masked_fill(~mask, self.pad), "attention_mask": mask.long()}
        if self.separator is not None:
            ends = (input_ids == self.separator).long()
            inputs["token_type_ids"] = ((ends.cumsum(1) - ends) > 0).long() * mask
        logits: Tensor = self.model(**inputs).logits
        return logits[:, 0]


class PairFormatter(Formatter):
    """For encoders without a chat template: [CLS] the conversation as lines [SEP] the reply [SEP]."""

    def full_prompt_ids(self, messages: list[Message]) -> list[int]:
        """The conversation, one `role: text` a line, between [CLS] and [SEP]."""
        text = "\n".join(f"{message.role}: {message.text()}" for message in messages)
        return [*self._mark(self.tokenizer.cls_token_id), *self._plain_ids(text), self.end_of_turn]

    def prompt_ids(self, messages: list[Message]) -> list[int]:
        """The same, cut on the left after [CLS]."""
        ids, start = self.full_prompt_ids(messages), self._mark(self.tokenizer.cls_token_id)
        room = self.rule.max_prompt_tokens - len(start)
        return ids if len(ids) <= self.rule.max_prompt_tokens else [*start, *ids[-room:]]

    def completion_ids(self, completion: Completion) -> list[int]:
        """The reply and [SEP], cut on the right."""
        return [*self._plain_ids(completion.text())[: self.rule.max_completion_tokens - 1], self.end_of_turn]

    @property
    def end_of_turn(self) -> int:
        """[SEP], or the end-of-text token of tokenizers that have none."""
        end = _first_set(self.tokenizer.sep_token_id, self.tokenizer.eos_token_id, None)
        if end is None:
            raise BadInput("this model's tokenizer has neither a separator nor an end token, so pairs cannot be built")
        return int(end)

    @staticmethod
    def _mark(token: int | None) -> list[int]:
        return [] if token is None else [token]


def _formatter(tokenizer: PreTrainedTokenizerFast, config: Any) -> Formatter:
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or _LONGEST
    # RoBERTa counts positions from its padding index, so two of them are not to be had.
    longest = min(int(tokenizer.model_max_length), positions - 2, _LONGEST)
    rule = FormattingRule(max_prompt_tokens=longest - longest // 3, max_completion_tokens=longest // 3)
    return Formatter(tokenizer, rule) if tokenizer.chat_template else PairFormatter(tokenizer, rule)


def _first_set(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
