"""Which texts of a conversation are read.

The user's turns count, newest first. A conversation about a double charge stays one while the user answers
questions ("yes", "in May"), so short turns say nothing about the topic: reading goes back until `OWN_TURNS` turns
longer than a short answer have been read. If the newest turns are all short answers, what the assistant said between
them is read too, since it names what they are about; but not its first turn, where it offers its services.

`BOUND` characters and `MOST_TURNS` turns bound the work. Of a turn that is longer than what is left of the bound, the
beginning and the end are read. `Reading.truncated` says that a turn, or a part of one, was not read for that reason.

Nothing here raises on any content: parts that are not text are passed over, bytes and lone surrogates are replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from routing.text.spelling import cleaned

BOUND = 20_000
MOST_TURNS = 200
OWN_TURNS = 5
ANSWER_WORDS, ANSWER_CHARACTERS = 4, 30

Messages = Sequence[Any]


@dataclass(slots=True)
class Reading:
    """The texts of one conversation that are read, newest first."""

    user: list[str] = field(default_factory=list)
    assistant: list[str] = field(default_factory=list)
    system: str = ""
    truncated: bool = False
    _left: int = BOUND

    @property
    def characters(self) -> int:
        """How much is read."""
        return sum(map(len, self.user)) + sum(map(len, self.assistant))

    def take(self, turns: list[str], text: str) -> None:
        """Add a turn, or as much of it as the bound leaves; a turn that was read already costs nothing."""
        if text in turns:
            return
        if len(text) > self._left or len(self.user) == MOST_TURNS:
            self.truncated = True
            if len(self.user) == MOST_TURNS or self._left < 2:
                return
            half = self._left // 2
            turns += [text[-half:], text[:half]]
            self._left = 0
        else:
            turns.append(text)
            self._left -= len(text)


def read(conversation: str | Messages) -> Reading:
    """What is read of a text, or of messages ({role, content} mappings or objects)."""
    reading = Reading()
    if isinstance(conversation, str | bytes):
        conversation = [{"role": "user", "content": conversation}]
    if not isinstance(conversation, Sequence):
        return reading
    own = 0
    greeting = next((message for message in conversation if _field(message, "role") == "assistant"), None)
    for message in reversed(conversation):
        role = _field(message, "role")
        text = content_text(_field(message, "content")) if role in ("user", "assistant", "system") else ""
        if not text.strip():
            continue
        if role == "system":
            reading.system = reading.system or text[:BOUND]
        elif role == "user" and own < OWN_TURNS:
            reading.take(reading.user, text)
            own += not is_short_answer(text)
        elif role == "assistant" and reading.user and own == 0 and message is not greeting:
            reading.take(reading.assistant, text)
    return reading


def pieces(conversation: str | Messages) -> list[str]:
    """The user's texts that rules read, newest first, each on one line."""
    return [line for text in read(conversation).user if (line := cleaned(text))]


def is_short_answer(text: str) -> bool:
    """Whether a turn is too short to have a topic of its own."""
    return len(text) <= ANSWER_CHARACTERS and len(text.split()) <= ANSWER_WORDS


def content_text(content: Any) -> str:
    """Text of a message's content: a string, or the text parts of a list of parts joined by a line break."""
    return "\n".join(_texts(content))


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str | bytes):
        yield _decode(content)
    elif isinstance(content, Sequence):
        for part in content:
            text = part if isinstance(part, str) else _field(part, "text")
            if isinstance(text, str | bytes):
                yield _decode(text)


def _field(message: Any, name: str) -> Any:
    return message.get(name) if isinstance(message, Mapping) else getattr(message, name, None)


def _decode(text: str | bytes) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text
