"""How conversations reach models of others that have a chat template: token for token as their model cards do it.

The card's recipe is the template over the whole conversation, the reply included, and the model's own tokenizer over
what it wrote. The reply may change the prompt's last tokens (SentencePiece joins spaces, BPE joins newlines, "[INST]"
templates have no control token between the two), so a conversation is tokenised across that seam, and its prompt is
what all of its replies leave as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from reward_model.errors import BadInput
from reward_model.text.formatting import (
    Completion,
    FormattingRule,
    Message,
    Tools,
    called,
    canonical_tool_call,
    common,
    encodable,
    too_deep,
)
from reward_model.text.pair_formatting import OwnTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Where the reply stands in a rendered conversation; hidden texts have no such mark.
_REPLY = "\ue000reply\ue001"
# Tokens of a prompt's end that a reply may change, held back so that the rest can be shared among replies.
_SEAM = 4
# Characters and tokens of a long text before the seam that are tokenised again with each reply, and that may differ
# at their beginning, which is in the middle of the text.
_WINDOW, _UNSETTLED = 2_000, 16


class ChatFormatter(OwnTokens):
    """Renders and tokenises the conversation with its reply as one."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rule: FormattingRule, padding: int | None = None) -> None:
        """`padding`: a token of which transformers reads none at the end, though a template may end a reply with it."""
        super().__init__(tokenizer, rule, joint=True)
        self._padding = padding

    def full_prompt_ids(self, messages: list[Message], tools: Tools = None) -> list[int]:
        """The conversation up to where the template puts the reply."""
        return self._whole_ids(self._before(messages, tools))

    def full_completion_ids(self, completion: Completion) -> list[int]:
        """The reply and what the template writes after it, as they are behind a prompt without text."""
        question = [Message(role="user", content="")]
        return self.full_pairs(self.full_prompt_ids(question), question, [completion])[0][1]

    def full_pairs(
        self, prompt: list[int], messages: list[Message], completions: Sequence[Completion], tools: Tools = None
    ) -> list[tuple[list[int], list[int]]]:
        """Token ids of the prompt and of the completion, before truncation, for each completion.

        Together they are the ids of the conversation that ends with the reply, but for padding at the end: whatever
        path scores a text reads the same token of it.
        """
        before = self._before(messages, tools)
        window = self._window(before, prompt)
        window_ids = self._whole_ids(window)
        pairs = []
        for completion in completions:
            whole = self._render(self._hide([*map(self._message, messages), self._reply(completion)]), tools)
            if whole.startswith(before):
                known, ids = window_ids, self._whole_ids(window + whole[len(before) :])
            else:
                # A template that writes the turns before the reply otherwise, by what the reply says.
                known, ids = self._whole_ids(before), self._whole_ids(whole)
            ids = self._unpadded(ids)
            shared = common(known, ids)
            first = prompt[: len(prompt) - len(known) + shared] if whole.startswith(before) else ids[:shared]
            pairs.append((first, ids[shared:]))
        return pairs

    @property
    def seam(self) -> int:
        """How many of a prompt's last tokens may become others when a reply follows them."""
        return _SEAM

    @cached_property
    def closing(self) -> list[int]:
        """What the template writes after every reply, but for padding at the end."""
        one, other = (self.full_completion_ids(Completion(content=text)) for text in ("a", "b"))
        return one[len(one) - common(one[::-1], other[::-1]) :]

    def completion_start(self, ids: Sequence[int]) -> int:
        """Where the reply begins in a whole sequence: behind the last of what the template writes between a question
        and its reply."""
        header = self._header
        for end in range(len(ids) - len(self.closing), len(header) - 1, -1):
            if header and list(ids[end - len(header) : end]) == header:
                return min(end, len(ids) - 1)
        return super().completion_start(ids)

    def cut_conversation(self, ids: list[int]) -> tuple[list[int], int]:
        """A whole sequence's tokens, cut as its prompt and its reply are, and how many were cut off."""
        kept, cut = super().cut_conversation(self._unpadded(ids) or ids[:1])
        return kept, cut

    def _says_where(self, ids: Sequence[int], begin: int) -> bool:
        header = self._header
        return list(ids[begin - len(header) : begin]) == header or super()._says_where(ids, begin)

    @cached_property
    def _header(self) -> list[int]:
        one, other = (self._stable_prompt(text) for text in ("a", "b"))
        return one[len(one) - common(one[::-1], other[::-1]) :]

    def _stable_prompt(self, question: str) -> list[int]:
        messages = [Message(role="user", content=question)]
        pairs = self.full_pairs(self.full_prompt_ids(messages), messages, [Completion(content=t) for t in ("a", "1")])
        return min((prompt for prompt, _ in pairs), key=len)

    def _before(self, messages: list[Message], tools: Tools) -> str:
        turns = [*self._hide([*map(self._message, messages)]), self._turn("assistant", _REPLY)]
        text, mark, _ = self._render(turns, tools).rpartition(_REPLY)
        if not mark:
            raise BadInput("the model's chat template writes no reply after these messages", "prompt")
        return text

    def _window(self, before: str, prompt: list[int]) -> str:
        """The end of a rendered prompt that is tokenised again with each reply."""
        begin = max((found.start() for found in self._control_pattern.finditer(before)), default=0)
        space = before.find(" ", max(begin, len(before) - _WINDOW))
        if len(before) - begin <= 2 * _WINDOW or space < 0:
            return before[begin:]
        settled = self._whole_ids(before[space:])[_UNSETTLED:]
        return before[space:] if len(settled) > 2 * _SEAM and prompt[-len(settled) :] == settled else before[begin:]

    def _render(self, turns: list[dict[str, Any]], tools: Tools = None, **how: Any) -> str:
        try:
            return super()._render(turns, tools=self._hide(tools) or None, **how)
        except RecursionError as error:
            raise too_deep() from error

    def _message(self, message: Message) -> dict[str, Any]:
        """A turn as the template takes it."""
        named = {"name": message.name, "tool_call_id": message.tool_call_id}
        turn = self._with_calls(self._turn(message.role, message.plain()), message.tool_calls)
        return turn | {name: value for name, value in named.items() if value is not None}

    def _reply(self, completion: Completion) -> dict[str, Any]:
        return self._with_calls(self._turn("assistant", completion.content or ""), completion.tool_calls)

    def _with_calls(self, turn: dict[str, Any], calls: list[dict[str, Any]] | None) -> dict[str, Any]:
        if not calls:
            return turn
        if not self._writes_calls:
            return turn | {"content": "\n".join(filter(None, [turn["content"], *map(canonical_tool_call, calls)]))}
        return turn | {"tool_calls": [_as_template_reads(call) for call in calls]}

    @cached_property
    def _writes_calls(self) -> bool:
        """Whether the template writes tool calls; where it does not, they are text in canonical form."""
        call = {"id": "call00000", "type": "function", "function": {"name": "PROBE", "arguments": {}}}
        turns = [self._turn("user", ""), self._turn("assistant", "") | {"tool_calls": [call]}]
        try:
            return "PROBE" in self._render(turns)
        except BadInput:
            return False

    def _whole_ids(self, rendered: str) -> list[int]:
        """As the model's own tokenizer has it; a text with control tokens of its own goes run by run."""
        if "\ue000" in rendered:
            return self._rendered_ids(rendered)
        return list(self._own.encode(encodable(rendered), add_special_tokens=False).ids)

    def _own_ids(self, text: str) -> list[int]:
        """As the model's own tokenizer has it, but for padding at the end.

        What the template wrote gets no special tokens around it: where they belong, the template wrote them.
        """
        written = self._written is not None and self._written in text
        ids = self._own.encode(text, add_special_tokens=False).ids if written else super()._own_ids(text)
        return self._unpadded(list(ids))

    @cached_property
    def _written(self) -> str | None:
        """The first control token that the template writes, or what it writes before a reply."""
        rendered = self._before([Message(role="user", content="\n")], None)
        control = self._control_pattern.search(rendered)
        return control[0] if control else rendered.rpartition("\n")[2].strip() or None

    def _unpadded(self, ids: list[int]) -> list[int]:
        end = len(ids)
        while end and ids[end - 1] == self._padding:
            end -= 1
        return ids[:end]


def _as_template_reads(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call whose arguments are an object where they can be read, as templates expect them."""
    name, arguments = called(call)
    read = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return read | ({"id": call["id"]} if call.get("id") else {})
