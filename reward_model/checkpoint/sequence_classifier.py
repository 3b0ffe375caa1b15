"""Any `AutoModelForSequenceClassification` with one label, from a folder or a hub id, as a reward model."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.errors import CheckpointError
from reward_model.text.chat_formatting import ChatFormatter
from reward_model.text.formatting import Formatter, FormattingRule
from reward_model.text.pair_formatting import PairFormatter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Tokens of a sequence at most, where neither the model nor its operator says less.
LONGEST = 4096


@dataclass(frozen=True)
class _Adapter:
    """A PEFT adapter: its base, the base's revision, and the adapter's own commit on a hub."""

    base: str
    revision: str | None
    commit: str | None


def load_sequence_classifier(
    name: str, dtype: torch.dtype, device: str | torch.device = "cpu", longest: int = LONGEST
) -> LoadedModel:
    """Load `name`, a classifier or an adapter of one; the repository's own code is never run, and only safetensors
    are read. Its head computes in fp32 whatever `dtype` is, and a sequence has at most `longest` tokens.

    Raises CheckpointError when it cannot be loaded, has no trained head, another number of labels than one, or no
    known way to write a conversation.
    """
    try:
        config, tokenizer, adapter = _read(name)
        if config.num_labels != 1:
            raise CheckpointError(
                f"{name} has {config.num_labels} labels, and a reward model has one: name a model that was trained "
                "with num_labels=1"
            )
        formatter = _formatter(name, tokenizer, config, longest)
        model = _load_adapted(name, adapter, config) if adapter else _load_weights(name, dtype)
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(f"{name} cannot be loaded as a reward model: {error}") from error
    if isinstance(formatter, PairFormatter) and hasattr(model, "score"):
        raise _without_template(name)
    _cast(model, dtype)
    module = PaddedClassifier(model, tokenizer).to(device).eval()
    commit = adapter.commit if adapter else getattr(config, "_commit_hash", None)
    return LoadedModel(_identity(name, commit), formatter, module, None, None, torch.device(device))


def load_classifier_formatter(name: str, longest: int = LONGEST) -> Formatter:
    """How the classifier `name` reads texts, without its weights; CheckpointError when it cannot be loaded."""
    try:
        config, tokenizer, _ = _read(name)
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(f"{name} cannot be loaded as a reward model: {error}") from error
    return _formatter(name, tokenizer, config, longest)


def _read(name: str) -> tuple[Any, Any, _Adapter | None]:
    """Configuration and tokenizer; those of its base where `name` is an adapter without its own."""
    from transformers import AutoConfig, AutoTokenizer

    if (adapter := _adapter_of(name)) is None:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        return config, AutoTokenizer.from_pretrained(name, trust_remote_code=False), None
    # The base may be a language model: the adapter brings the head.
    config = AutoConfig.from_pretrained(adapter.base, revision=adapter.revision, num_labels=1, trust_remote_code=False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, config=config, trust_remote_code=False)
    except (OSError, ValueError):
        tokenizer = AutoTokenizer.from_pretrained(adapter.base, revision=adapter.revision, trust_remote_code=False)
    return config, tokenizer, adapter


def _adapter_of(name: str) -> _Adapter | None:
    from transformers.utils.hub import extract_commit_hash
    from transformers.utils.peft_utils import find_adapter_config_file

    path = find_adapter_config_file(name)
    if path is None:
        return None
    told = json.loads(Path(path).read_text())
    if not (base := told.get("base_model_name_or_path")):
        raise CheckpointError(f"{name} is an adapter, and its adapter_config.json names no base_model_name_or_path")
    return _Adapter(base, told.get("revision"), extract_commit_hash(path, None))


def _load_adapted(name: str, adapter: _Adapter, config: Any) -> Any:
    """The base with the adapter merged into it, in fp32."""
    from peft import PeftModel
    from safetensors import safe_open
    from transformers import AutoModelForSequenceClassification
    from transformers.utils.hub import cached_file

    with safe_open(str(cached_file(name, "adapter_model.safetensors")), "pt") as weights:
        brought = list(weights.keys())
    model, report = AutoModelForSequenceClassification.from_pretrained(
        adapter.base, revision=adapter.revision, config=config, dtype=torch.float32, trust_remote_code=False,
        use_safetensors=True, output_loading_info=True,
    )  # fmt: skip
    _check_trained(name, [key for key in report["missing_keys"] if not any(own.endswith(key) for own in brought)])
    try:
        return PeftModel.from_pretrained(model, name).merge_and_unload()
    except (RuntimeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"the adapter {name} cannot be merged into its base {adapter.base}: {error}") from error


def _check_trained(name: str, missing: Sequence[str]) -> None:
    if missing:
        # transformers would fill these with random numbers, and every score would be noise.
        raise CheckpointError(
            f"{name} has no weights for {', '.join(sorted(missing))}; it is not a trained reward model"
        )


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """The model in `dtype`, but for its head: in bf16 scores from 16 to 32 would move in steps of 0.125."""
    heads = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 1]
    if not heads:
        model.to(dtype)
        return
    exact = {key: value.float() for key, value in heads[-1].state_dict().items()}
    model.to(dtype)
    heads[-1].float().load_state_dict(exact)
    heads[-1].register_forward_pre_hook(lambda _, given: (given[0].float(), *given[1:]))


def _load_weights(name: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForSequenceClassification

    model, report = AutoModelForSequenceClassification.from_pretrained(
        name, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True
    )
    _check_trained(name, report["missing_keys"])
    return model


def _identity(name: str, commit: str | None) -> str:
    """`name@commit` from a hub, `folder@local` from a folder, of which no version is known."""
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


def _without_template(name: str) -> CheckpointError:
    return CheckpointError(
        f"{name} has no chat template, so nobody knows how it reads a conversation; put the template that it was "
        "trained with into its folder as chat_template.jinja"
    )


def _formatter(name: str, tokenizer: Any, config: Any, most: int) -> Formatter:
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(f"{name} has no tokenizer.json; save its tokenizer in the fast format first")
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or most
    # RoBERTa counts positions from its padding index, so two of them are not to be had.
    longest = min(int(tokenizer.model_max_length), positions - 2, most)
    rule = FormattingRule(max_prompt_tokens=longest - longest // 3, max_completion_tokens=longest // 3)
    if not tokenizer.chat_template:
        if tokenizer.cls_token_id is None:
            raise _without_template(name)
        return PairFormatter(tokenizer, rule, joint=True)
    return ChatFormatter(tokenizer, rule, config.get_text_config().pad_token_id)
