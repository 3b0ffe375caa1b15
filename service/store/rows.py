"""A reranked request as rows of the store: redacted, and cut to what every database takes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, Integer, String, Table

from service.store.redaction import Redactor, redact
from service.store.tables import USER_ROOM, candidates, responses, reviews

Row = dict[str, Any]

# Deeper than any schema of a tool; the JSON writer gives up at 254.
_DEEPEST = 64
_TOO_DEEP = "[nested too deeply]"
_LARGEST = {BigInteger: 2**63 - 1, Integer: 2**31 - 1}


@dataclass
class Record:
    """Rows of `responses`, `candidates` and perhaps `reviews`. `redacted` is called before they are written, off the
    event loop. `held` are the whole messages of an answer that a person decides, as `response_id`, `index`,
    `message`."""

    response: Row
    candidates: list[Row]
    review: Row | None = None
    held: list[Row] = field(default_factory=list)

    def redacted(self, redactor: Redactor = redact) -> Record:
        """Without what names a person, a card, an account or a key; what was taken out is said. Whole messages stay
        as they are."""
        kinds: set[str] = set()
        response = self.response | {
            name: _redacted(self.response.get(name), kinds, redactor) for name in ("prompt", "parameters")
        }
        texts = [
            {name: _redacted(row.get(name), kinds, redactor) for name in ("content", "tool_calls")}
            for row in self.candidates
        ]
        rows = [fitted(candidates, row | text) for row, text in zip(self.candidates, texts, strict=True)]
        response["user"] = stored_user(response.get("user"))
        response = fitted(responses, response | {"redacted": sorted(kinds)})
        return Record(response, rows, self.review and fitted(reviews, self.review), self.held)


def stored_user(user: str | None) -> str | None:
    """OpenAI's `user` as the store has it. One that is too long, or no text, ends in its own digest, so that it is
    found again and is never taken for another's."""
    if user is None:
        return None
    text, room = _text(user), USER_ROOM
    if text == user and len(user) <= room:
        return user
    return f"{text[: room - 65]}#{user_digest(user)}"


def user_digest(user: str) -> str:
    """What stands for a user where no name may."""
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()


def fitted(table: Table, row: Mapping[str, Any]) -> Row:
    """A row that every database takes: Unicode text without NUL, and nothing longer or larger than its column."""
    return {name: _fit(table.c[name].type, value) for name, value in row.items()}


def _fit(kind: Any, value: Any) -> Any:
    if isinstance(value, str):
        text, room = _text(value), kind.length if isinstance(kind, String) else None
        return text if room is None or len(text) <= room else f"{text[: room - 9]}#{user_digest(value)[:8]}"
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        largest = next((most for column, most in _LARGEST.items() if isinstance(kind, column)), None)
        return value if largest is None else max(-largest, min(largest, value))
    return _valid(value) if isinstance(value, list | dict) else value


def _redacted(value: Any, kinds: set[str], redactor: Redactor, depth: int = 0) -> Any:
    """Every string of a JSON value redacted, keys too."""
    if isinstance(value, str):
        text, removed = redactor(_text(value))
        kinds |= removed
        return text
    if not isinstance(value, list | dict):
        return value
    if depth >= _DEEPEST:
        return _TOO_DEEP
    if isinstance(value, list):
        return [_redacted(item, kinds, redactor, depth + 1) for item in value]
    items = (
        (_redacted(key, kinds, redactor), _redacted(item, kinds, redactor, depth + 1)) for key, item in value.items()
    )
    return _with_keys(items)


def _valid(value: Any, depth: int = 0) -> Any:
    """Every string of a JSON value as text."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if not isinstance(value, list | dict):
        return value
    if depth >= _DEEPEST + 1:
        return _TOO_DEEP
    if isinstance(value, list):
        return [_valid(item, depth + 1) for item in value]
    return _with_keys((_text(key), _valid(item, depth + 1)) for key, item in value.items())


def _with_keys(items: Any) -> Row:
    """Keys that redaction has made equal are told apart, so that none is lost."""
    made: Row = {}
    for key, item in items:
        name, number = key, 2
        while name in made:
            name, number = f"{key}#{number}", number + 1
        made[name] = item
    return made


def _text(value: str) -> str:
    """Neither store keeps what is no Unicode text, and Postgres no zero byte."""
    return value.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")
