"""Operators' red flags: what sends an answer to a person whatever its probability."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from routing.rules import first_match
from routing.text.spelling import cleaned
from service.request.candidate import Candidate
from service.request.plan import Plan


def flag_of(plan: Plan, candidate: Candidate) -> str | None:
    """Name of the rule that wants a person to look at this reply, or at what was asked.

    All that the user said and all that the client would get is read whole: text, reasoning, names and arguments of
    tool calls.
    """
    if not plan.settings.red_flags:
        return None
    texts = (cleaned(text) for text in (*_reply_texts(candidate), *plan.user_texts))
    rule = first_match(plan.settings.red_flags, texts)
    return rule.name if rule else None


def _reply_texts(candidate: Candidate) -> Iterator[str]:
    yield candidate.content
    yield candidate.reasoning
    for call in candidate.tool_calls:
        yield call["function"]["name"]
        yield from _strings(call["function"]["arguments"])


def _strings(arguments: str) -> Iterator[str]:
    """The arguments as written and, if they are JSON, each name and value in it as it will be read."""
    yield arguments
    try:
        pending: list[Any] = [orjson.loads(arguments)]
    except orjson.JSONDecodeError:
        return
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            pending += value
        elif value is not None:
            yield str(value)
