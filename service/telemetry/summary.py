"""What is known of a request at its end: for its line in the log, its metrics and its span. No field holds a text."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack


class Facts(TypedDict, total=False):
    """What the stages of a request tell of it."""

    response_id: str
    tenant: str
    route: str
    model: str
    stream: bool
    n: int
    decision: str
    sent: str
    degraded: str | None
    # Of an error: its code, and its status where the response's own was sent before.
    code: str
    status: int
    prompt_tokens: int
    completion_tokens: int
    timings_ms: dict[str, float]


@dataclass
class RequestSummary:
    """One request, filled in as it goes; what stays None was never known."""

    request_id: str
    method: str
    # The template of the path: a path may hold an id, or anything that a client made up.
    path: str | None = None
    response_id: str | None = None
    tenant: str | None = None
    route: str | None = None
    model: str | None = None
    stream: bool | None = None
    n: int | None = None
    decision: str | None = None
    sent: str | None = None
    degraded: str | None = None
    code: str | None = None
    status: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    timings_ms: dict[str, float] | None = None

    def known(self) -> dict[str, Any]:
        """The fields that have a value."""
        return {name: value for name, value in vars(self).items() if value is not None}


_summary: ContextVar[RequestSummary | None] = ContextVar("winnow_summary", default=None)


def begin_summary(summary: RequestSummary) -> None:
    """Make `summary` what `note` fills in, in the current task and in every task that it starts."""
    _summary.set(summary)


def note(**facts: Unpack[Facts]) -> None:
    """Tell what is known of the current request; outside one, nothing happens."""
    if (summary := _summary.get()) is not None:
        vars(summary).update(facts)
