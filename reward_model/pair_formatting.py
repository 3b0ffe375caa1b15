"""How text reaches models that have no chat template of ours: their own tokenizer, and pairs for encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reward_model.errors import BadInput
from reward_model.formatting import Formatter, FormattingRule, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class OwnTokens(Formatter):
    """Texts that arrive rendered are tokenised as the model's own tokenizer does it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rule: FormattingRule) -> None:
        super().__init__(tokenizer, rule)
        self._own = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
        self._own.no_truncation()
        self._own.no_padding()

    def conversation_ids(self, text: str) -> tuple[list[int], int]:
        """The text with the tokenizer's special tokens around it, cut on the left after the first token."""
        bos = self.tokenizer.bos_token
        rendered = bool(bos) and text.startswith(str(bos))
        ids = list(self._own.encode(text, add_special_tokens=not rendered).ids)
        cut = max(0, len(ids) - self.rule.max_prompt_tokens - self.rule.max_completion_tokens)
        return ([*ids[:1], *ids[1 + cut :]] if cut else ids), cut


class PairFormatter(OwnTokens):
    """For encoders without a chat template: [CLS] the conversation as lines [SEP] the reply [SEP]."""

    def full_prompt_ids(self, messages: list[Message]) -> list[int]:
        """The conversation, one `role: text` a line, between [CLS] and [SEP]."""
        text = "\n".join(f"{message.role}: {message.text()}" for message in messages)
        return [*self._start, *self._plain_ids(text), self.end_of_turn]

    def cut_prompt(self, ids: list[int]) -> list[int]:
        """Cut on the left after [CLS]."""
        room = self.rule.max_prompt_tokens - len(self._start)
        return ids if len(ids) <= self.rule.max_prompt_tokens else [*self._start, *ids[-room:]]

    @property
    def end_of_turn(self) -> int:
        """[SEP], or the end-of-text token of tokenizers that have none."""
        end = _first_set(self.tokenizer.sep_token_id, self.tokenizer.eos_token_id)
        if end is None:
            raise BadInput("this model's tokenizer has neither a separator nor an end token, so pairs cannot be built")
        return int(end)

    @property
    def _start(self) -> list[int]:
        start = self.tokenizer.cls_token_id
        return [] if start is None else [int(start)]


def _first_set(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
