"""Requests that a chat front-end makes for itself: titles, tags, follow-up questions, search queries.

A front-end asks the model it chats with for these, the chat quoted in one message, so the router would read the
customer's words and answer a title by best-of-N. The shapes are data (`data/background_tasks.json`): an instruction
that the message begins with, an end, and a quoted part that is not read. The rest of the message is routed as usual,
so a question beside the quoted chat still counts.

Anyone may write such a message. Who does gets what the `default` route gives, and a title for an answer.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import re2
from pydantic import BaseModel, ConfigDict, TypeAdapter

from routing.text.spelling import cleaned

SHAPES = Path(__file__).parents[1] / "data" / "background_tasks.json"

# The instruction stands within so many characters of the beginning; the end within so many of the end.
_HEAD, _TAIL = 1_000, 300


class TaskShape(BaseModel):
    """One kind of request; all patterns are RE2, read without case on the text on one line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    role: Literal["user", "system"] = "user"
    begins: str
    ends: str = ""
    quotes: str


class Task(NamedTuple):
    """A background request that was recognised; `frame` is its text outside the quoted chat."""

    name: str
    frame: str


def background_task(user: str, system: str) -> Task | None:
    """The background request that the newest user turn is, or None."""
    texts = {"user": cleaned(user), "system": cleaned(system)}
    for shape, begins, ends, quotes in _shapes():
        instruction = texts[shape.role]
        if begins.match(instruction[:_HEAD]) is None or ends.search(texts["user"][-_TAIL:]) is None:
            continue
        frame = quotes.sub(" ", texts["user"])
        if shape.role == "system" or frame != texts["user"]:
            return Task(shape.name, frame.strip())
    return None


@cache
def _shapes() -> list[tuple[TaskShape, Any, Any, Any]]:
    options = re2.Options()
    options.case_sensitive = False
    shapes = TypeAdapter(list[TaskShape]).validate_json(SHAPES.read_bytes())
    return [
        (shape, *(re2.compile(pattern, options) for pattern in (shape.begins, shape.ends, shape.quotes)))
        for shape in shapes
    ]
