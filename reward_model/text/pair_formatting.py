"""How text reaches models that have no chat template of ours: their own tokenizer, and pairs for encoders.

A model that others trained says how long a sequence may be, not how long a prompt (`joint`). Whatever fits together
is not cut. Of what does not, the prompt gets two thirds (`max_prompt_tokens`), or more if the reply leaves more, and
the reply gets the rest: it is never cut while the prompt has more than its two thirds. A checkpoint of ours keeps the
two limits that it was trained with.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from reward_model.errors import BadInput
from reward_model.text.formatting import Formatter, FormattingRule, Message, Tools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class OwnTokens(Formatter):
    """Texts that arrive rendered are tokenised as the model's own tokenizer does it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rule: FormattingRule, *, joint: bool = False) -> None:
        """`joint`: prompt and reply share the room of both."""
        super().__init__(tokenizer, rule)
        self._joint = joint
        self._own = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
        self._own.no_truncation()
        self._own.no_padding()

    def conversation_ids(self, text: str) -> tuple[list[int], int]:
        """The text with the tokenizer's special tokens around it, cut; and how many tokens were cut off."""
        return self.cut_conversation(self._own_ids(text))

    def cut(self, prompt: list[int], completion: list[int]) -> tuple[list[int], list[int]]:
        """The tokens of a whole prompt and a whole completion as they are scored."""
        if not self._joint:
            return super().cut(prompt, completion)
        total = self.rule.max_tokens
        kept = self.cut_prompt(prompt, max(self.rule.max_prompt_tokens, total - len(completion)))
        return kept, self.cut_completion(completion, total - len(kept))

    @property
    def longest_prompt(self) -> int:
        """How many tokens `cut` leaves of a prompt at most, whatever the completion."""
        return self.rule.max_tokens - len(self.closing) if self._joint else super().longest_prompt

    def _own_ids(self, text: str) -> list[int]:
        bos = self.tokenizer.bos_token
        rendered = bool(bos) and text.startswith(str(bos))
        return list(self._own.encode(text, add_special_tokens=not rendered).ids)

    @property
    def _start(self) -> list[int]:
        start = self.tokenizer.bos_token_id
        return [] if start is None else [int(start)]


class PairFormatter(OwnTokens):
    """For encoders without a chat template: [CLS] the conversation as lines [SEP] the reply [SEP]."""

    def full_prompt_ids(self, messages: list[Message], tools: Tools = None) -> list[int]:
        """The conversation between [CLS] and [SEP], one `role: text` a line.

        Models of others read a question and its answer, and no roles: a question by itself has none here either.
        """
        if self._joint and [message.role for message in messages] == ["user"]:
            text = messages[0].text()
        else:
            text = "\n".join(f"{message.role}: {message.text()}" for message in messages)
        return [*self._start, *self._plain_ids(text), *self._around[1]]

    @property
    def closing(self) -> list[int]:
        """What ends a reply."""
        return self._around[2]

    @cached_property
    def _around(self) -> tuple[list[int], list[int], list[int]]:
        """What stands before the prompt, between prompt and reply, and behind the reply.

        Models of others have there what their tokenizer puts there (RoBERTa has two separators between the texts).
        """
        one = self.tokenizer.cls_token_id
        pair = self._own.encode("a", "b") if self._joint else None
        if pair is None or None not in pair.sequence_ids:
            return [] if one is None else [int(one)], [self.end_of_turn], [self.end_of_turn]
        first, second = pair.sequence_ids.index(0), pair.sequence_ids.index(1)
        ends = [len(pair.ids) - pair.sequence_ids[::-1].index(text) for text in (0, 1)]
        return pair.ids[:first], pair.ids[ends[0] : second], pair.ids[ends[1] :]

    @property
    def end_of_turn(self) -> int:
        """[SEP], or the end-of-text token of tokenizers that have none."""
        end = _first_set(self.tokenizer.sep_token_id, self.tokenizer.eos_token_id)
        if end is None:
            raise BadInput("this model's tokenizer has neither a separator nor an end token, so pairs cannot be built")
        return int(end)

    @property
    def _start(self) -> list[int]:
        return self._around[0]


def _first_set(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
