"""Which text of a conversation is classified.

Only what the user said counts, and only lately: the last `USER_TURNS` user turns, each by itself, because a
conversation about a double charge stays one when the user answers "yesterday, about noon". The most
high-stakes of them decides (`routing.router`). A turn longer than `PIECE` characters is read at its beginning
and at its end, so the cost of a turn is bounded whatever its length and a question is found before or after
whatever was pasted.

Nothing here raises on any content: parts that are not text are passed over, bytes and lone surrogates are
replaced, control characters become spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

USER_TURNS = 3
PIECE = 600

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffd\s]+")

Messages = Sequence[Any]


def pieces(conversation: str | Messages) -> list[str]:
    """The texts to classify, newest turn first, each at most PIECE characters; empty when there is none."""
    if isinstance(conversation, str | bytes):
        turns: Iterable[str] = [_decode(conversation)]
    else:
        turns = list(_last_user_turns(conversation))
    return [piece for turn in turns for piece in _cut(turn)]


def _last_user_turns(messages: Any) -> Iterator[str]:
    if not isinstance(messages, Sequence):
        return
    found = 0
    for message in reversed(messages):
        if found == USER_TURNS:
            return
        if _field(message, "role") == "user":
            text = _content_text(_field(message, "content"))
            if text.strip():
                found += 1
                yield text


def _field(message: Any, name: str) -> Any:
    return message.get(name) if isinstance(message, Mapping) else getattr(message, name, None)


def _content_text(content: Any) -> str:
    """Text of a message's content: a string, or the text parts of a list of parts joined by a line break."""
    if isinstance(content, str | bytes):
        return _decode(content)
    if not isinstance(content, Sequence):
        return ""
    texts = (part if isinstance(part, str) else _field(part, "text") for part in content)
    return "\n".join(_decode(text) for text in texts if isinstance(text, str | bytes))


def _decode(text: str | bytes) -> str:
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else text


def _cut(turn: str) -> Iterator[str]:
    """One piece, or the beginning and the end of a longer turn."""
    if len(turn) <= 2 * PIECE:
        clean = cleaned(turn)
        if len(clean) <= PIECE:
            if clean:
                yield clean
            return
        turn = clean
    for end in (turn[:PIECE], turn[-PIECE:]):
        if clean := cleaned(end):
            yield clean


def cleaned(text: str) -> str:
    """Valid Unicode on one line: what a rule reads."""
    return _CONTROL.sub(" ", text.encode("utf-8", "replace").decode("utf-8")).strip()
