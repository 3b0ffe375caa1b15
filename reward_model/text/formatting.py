"""Prompt and completion to token ids: the one place where it happens, for training and for serving.

A sequence is `prompt_ids(messages) + completion_ids(completion)`. The prompt is rendered with the chat
template and its generation prompt, exactly as the policy sees it, and cut on the left; the completion is
tokenised by itself, cut on the right and closed with the end-of-turn token. The prompt's tokens therefore
never depend on the completion, and its keys and values can be shared among candidates. Models that others
trained have one limit for both: there `cut` and `sequences` decide (see `pair_formatting`).

Text from users and policies never becomes a control token: only what the chat template itself wrote is. A
prompt without a system message gets whatever the template puts there, since the policy's server does the
same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reward_model.errors import BadInput
from reward_model.faults import first_fault

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Definitions of tools, as OpenAI has them.
Tools = list[dict[str, Any]] | None
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
# Control tokens in a text are rendered as marks, which no template touches, and put back as plain text afterwards.
_OPEN, _CLOSE = "\ue000", "\ue001"
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


class Message(BaseModel):
    """One turn; `content` is a string, a list of text parts, or null beside tool calls."""

    model_config = ConfigDict(extra="ignore")

    role: Role
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    def text(self) -> str:
        """What the model reads: the text, then the tool calls in canonical form."""
        return join_text(self.plain(), self.tool_calls)

    def plain(self) -> str:
        """The text alone."""
        return _plain(self.content)


class Completion(BaseModel):
    """A reply to be scored: text, tool calls, or both."""

    model_config = ConfigDict(extra="ignore")

    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to send: no text and no tool call."""
        return not (self.content or "").strip() and not self.tool_calls

    def text(self) -> str:
        """What the model reads: the text, then the tool calls in canonical form."""
        return join_text(self.content or "", self.tool_calls)


class FormattingRule(BaseModel):
    """How text became tokens in training; part of a checkpoint's manifest, obeyed in serving."""

    max_prompt_tokens: int = Field(1024, gt=0, description="Prompts are cut on the left to this many tokens.")
    max_completion_tokens: int = Field(512, gt=1, description="Completions are cut on the right to this many.")
    prompt_truncation: Literal["left"] = "left"
    completion_truncation: Literal["right"] = "right"
    special_tokens: Literal["template_only"] = "template_only"
    system_prompt: Literal["chat_template_default"] = "chat_template_default"
    developer_role: Literal["system"] = "system"

    @property
    def max_tokens(self) -> int:
        """The longest sequence."""
        return self.max_prompt_tokens + self.max_completion_tokens


def _plain(content: str | list[dict[str, Any]] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    for part in content:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadInput("only text parts can be scored: {'type': 'text', 'text': ...}", param="messages")
    return "\n".join(part["text"] for part in content)


def canonical_tool_call(call: dict[str, Any]) -> str:
    """One serialisation for one call, however the sender ordered or spaced its arguments.

    >>> canonical_tool_call({"id": "c1", "function": {"name": "refund", "arguments": '{"b": 1,"a": 2}'}})
    '<tool_call>\\n{"name":"refund","arguments":{"a":2,"b":1}}\\n</tool_call>'
    """
    name, arguments = called(call)
    try:
        body = json.dumps(arguments, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    except RecursionError as error:
        raise too_deep() from error
    return f'<tool_call>\n{{"name":{json.dumps(name, ensure_ascii=False)},"arguments":{body}}}\n</tool_call>'


def called(call: dict[str, Any]) -> tuple[Any, Any]:
    """Name and arguments of a tool call; BadInput where it has no function."""
    function = call.get("function", call)
    if not isinstance(function, dict):
        raise BadInput("a tool call's `function` must be an object", param="tool_calls")
    arguments = function.get("arguments", {})
    return function.get("name"), _parsed_or_text(arguments) if isinstance(arguments, str) else arguments


def too_deep() -> BadInput:
    """The error for arguments that cannot be written."""
    return BadInput("a tool call's arguments are nested too deeply", param="tool_calls")


def _parsed_or_text(arguments: str) -> Any:
    """A policy may produce broken JSON; it is scored as the text it is."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def join_text(content: str, tool_calls: list[dict[str, Any]] | None) -> str:
    """Text followed by its tool calls, each on lines of its own."""
    return "\n".join(filter(None, [content, *map(canonical_tool_call, tool_calls or [])]))


def parse_messages(raw: Any) -> list[Message]:
    """Messages from JSON; raises BadInput naming the message and the field."""
    from pydantic import TypeAdapter, ValidationError

    try:
        messages = TypeAdapter(list[Message]).validate_python(raw)
    except ValidationError as error:
        raise BadInput(f"prompt.{first_fault(error)}", param="prompt") from error
    if not messages:
        raise BadInput("the prompt has no messages", param="prompt")
    return messages


class Formatter:
    """Tokenises prompts and completions by a checkpoint's rule. Safe to use from several threads."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rule: FormattingRule) -> None:
        self.tokenizer = tokenizer
        self.rule = rule
        # A copy of its own, on which text is always plain: the flag is shared state, so it is set once.
        self._encoder = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
        self._encoder.encode_special_tokens = True
        self._encoder.no_truncation()
        self._encoder.no_padding()
        added = tokenizer.added_tokens_decoder.items()
        self._control = {str(token.content): int(number) for number, token in added if token.special}
        longest_first = sorted(self._control, key=len, reverse=True)
        self._control_pattern = re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")
        self._control_ids = frozenset(self._control.values())
        # What a text may not say to the template: the place in this list is the number of its mark.
        self._hidden = [*longest_first, _OPEN, _CLOSE]
        self._hidden_pattern = re.compile("|".join(map(re.escape, self._hidden)))

    @property
    def template_sha256(self) -> str:
        """Digest of the chat template; a policy with another one would show the model another format."""
        return hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()

    def prompt_ids(self, messages: list[Message]) -> list[int]:
        """Token ids of the conversation up to where the reply begins, at most `max_prompt_tokens`."""
        return self.cut_prompt(self.full_prompt_ids(messages))

    def full_prompt_ids(self, messages: list[Message], tools: Tools = None) -> list[int]:
        """The same before truncation, so that a caller can tell how much was cut.

        `tools` are for models of others (`ChatFormatter`): those that we train have never read any.
        """
        turns = [self._turn(message.role, message.text()) for message in messages]
        return self._rendered_ids(self._render(self._hide(turns), add_generation_prompt=True))

    def cut_prompt(self, ids: list[int], room: int | None = None) -> list[int]:
        """A whole prompt's tokens, cut on the left to `room` (None: the rule's) behind the model's start token."""
        room = self.rule.max_prompt_tokens if room is None else room
        if len(ids) <= room:
            return ids
        start = self._start if ids[: len(self._start)] == self._start else []
        return [*start, *ids[len(ids) - room + len(start) :]]

    def completion_ids(self, completion: Completion) -> list[int]:
        """Token ids of the reply and the end of its turn, at most `max_completion_tokens`."""
        return self.cut_completion(self.full_completion_ids(completion))

    def full_completion_ids(self, completion: Completion) -> list[int]:
        """The same before truncation."""
        return [*self._plain_ids(completion.text()), *self.closing]

    def cut_completion(self, ids: list[int], room: int | None = None) -> list[int]:
        """A whole completion's tokens, cut on the right to `room` (None: the rule's) and closed again."""
        room = self.rule.max_completion_tokens if room is None else room
        return ids if len(ids) <= room else [*ids[: room - len(self.closing)], *self.closing]

    def cut(self, prompt: list[int], completion: list[int]) -> tuple[list[int], list[int]]:
        """The tokens of a whole prompt and a whole completion as they are scored: each cut to its own limit."""
        return self.cut_prompt(prompt), self.cut_completion(completion)

    @property
    def longest_prompt(self) -> int:
        """How many tokens `cut` leaves of a prompt at most, whatever the completion."""
        return self.rule.max_prompt_tokens

    @property
    def seam(self) -> int:
        """How many of a prompt's last tokens may become others when a reply follows them."""
        return 0

    def full_pairs(
        self, prompt: list[int], messages: list[Message], completions: Sequence[Completion], tools: Tools = None
    ) -> list[tuple[list[int], list[int]]]:
        """Token ids of the prompt and of the completion, before truncation, for each completion.

        `prompt` is what `full_prompt_ids` gives for `messages`; it may lack its beginning.
        """
        return [(prompt, self.full_completion_ids(completion)) for completion in completions]

    def sequences(
        self, messages: list[Message], completions: Sequence[Completion], tools: Tools = None
    ) -> list[tuple[list[int], list[int]]]:
        """Token ids of the prompt and of the completion, as they are scored, for each completion."""
        prompt = self.full_prompt_ids(messages, tools)
        return [self.cut(*pair) for pair in self.full_pairs(prompt, messages, completions, tools)]

    def templated_ids(self, text: str) -> list[int]:
        """Token ids of a text that somebody rendered with the template already; its control tokens count."""
        return self._rendered_ids(text, hidden=False)

    def conversation_ids(self, text: str) -> tuple[list[int], int]:
        """A rendered prompt with its reply, closed where it is not, cut; and how many tokens were cut off."""
        ids = self.templated_ids(text.rstrip())
        return self.cut_conversation(ids if ids[-1:] == [self.end_of_turn] else [*ids, self.end_of_turn])

    def cut_conversation(self, ids: list[int]) -> tuple[list[int], int]:
        """A whole sequence's tokens, cut as its prompt and its reply are, and how many were cut off.

        Where no control token says which part is the reply, the text is cut on the left.
        """
        begin = self.completion_start(ids)
        if not self._says_where(ids, begin):
            kept = self.cut_prompt(ids, self.rule.max_tokens)
        else:
            kept = [token for part in self.cut(ids[:begin], ids[begin:]) for token in part]
        return kept, len(ids) - len(kept)

    def _says_where(self, ids: Sequence[int], begin: int) -> bool:
        """Whether the tokens before `begin` are a prompt that ends there."""
        return not self._control_ids.isdisjoint(ids[len(self._start) : begin])

    def completion_start(self, ids: Sequence[int]) -> int:
        """Where the reply begins in a whole sequence: behind the last generation prompt, or at 0 without one.

        Text never becomes a control token, so the last one before the closing belongs to the template.
        """
        for place in range(len(ids) - len(self.closing) - 1, -1, -1):
            if ids[place] in self._control_ids:
                return min(place + 1 + self._header_length, len(ids) - 1)
        return 0

    @cached_property
    def _header_length(self) -> int:
        """Tokens of the generation prompt behind its last control token: "assistant" and a newline, say."""
        ids = self.full_prompt_ids([Message(role="user", content="")])
        return next((n for n, token in enumerate(reversed(ids)) if token in self._control_ids), 0)

    @property
    def _start(self) -> list[int]:
        """What a prompt that is cut begins with all the same, if it began so."""
        return []

    @property
    def closing(self) -> list[int]:
        """What ends a reply."""
        return [self.end_of_turn]

    @property
    def end_of_turn(self) -> int:
        """The token that closes a reply."""
        return self._control[str(self.tokenizer.eos_token)]

    def _turn(self, role: str, content: str) -> dict[str, Any]:
        return {"role": "system" if role == "developer" else role, "content": content}

    def _hide(self, value: Any) -> Any:
        """`value`, texts, lists and dicts of them, with marks where a text has control tokens.

        The template sees the texts themselves, so that it may trim them or decide by them, but only what it writes
        is a control token.
        """
        if isinstance(value, str):
            return self._hidden_pattern.sub(lambda found: f"{_OPEN}{self._hidden.index(found[0])}{_CLOSE}", value)
        if isinstance(value, dict):
            return {self._hide(key): self._hide(item) for key, item in value.items()}
        return [self._hide(item) for item in value] if isinstance(value, list) else value

    def _show(self, text: str) -> str:
        return _MARK.sub(lambda mark: self._hidden[int(mark[1])], text)

    def _render(self, turns: list[dict[str, Any]], **how: Any) -> str:
        """The chat template around hidden texts; BadInput when the template refuses the turns."""
        from jinja2 import TemplateError

        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, **how))
        except (TemplateError, TypeError) as error:
            raise BadInput(f"the model's chat template refuses these messages: {error}", "prompt") from error

    def _rendered_ids(self, rendered: str, *, hidden: bool = True) -> list[int]:
        """Ids of a rendered text; `hidden`: its marks stand for control tokens that are text.

        The template's control tokens cut the text into runs; a message joins the run that it stands in, so that
        ordinary text is tokenised exactly as the policy's server does it.
        """
        ids: list[int] = []
        run: list[str] = []
        for piece in self._control_pattern.split(rendered):
            if piece in self._control:
                ids += [*self._plain_ids("".join(run)), self._control[piece]]
                run = []
            else:
                run.append(self._show(piece) if hidden else piece)
        return ids + self._plain_ids("".join(run))

    def _plain_ids(self, text: str) -> list[int]:
        return list(self._encoder.encode(encodable(text), add_special_tokens=False).ids) if text else []


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens two sequences share."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))


def encodable(text: str) -> str:
    """`text` without surrogates, which come from JSON escapes and mean nothing."""
    return text.encode("utf-8", "replace").decode()
