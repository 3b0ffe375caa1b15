"""What does not fit a schema, in words for the person who wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError


class Fault(NamedTuple):
    """A field, by its path (empty for the whole), and what is wrong with it."""

    field: str
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, self))


def fault_of(problem: Mapping[str, Any]) -> Fault:
    """One of pydantic's problems."""
    return Fault(".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, "))


def first_fault(error: ValidationError) -> Fault:
    """The first field that does not fit."""
    return fault_of(error.errors(include_url=False, include_input=False, include_context=False)[0])
