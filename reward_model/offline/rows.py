"""Rows of a file to score: a prompt with its completions, and what its head and its calibrator are picked by."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from pydantic import ValidationError

from reward_model.errors import BadInput
from reward_model.jsonl import read_jsonl
from reward_model.offline.scoring import Prompt
from reward_model.serving.schemas import ScoreRequest

# Rows gathered before scoring, so that their sequences can be batched.
WINDOW = 256
# What is read of a row; everything else is only passed through.
_FIELDS = ("prompt", "completions", "tools", "locale", "route", "stopping_rule")


class Defaults(NamedTuple):
    """What holds for rows that do not say it themselves."""

    locale: str | None = None
    route: str | None = None


class Row(NamedTuple):
    """A row as it was read, as it is understood, and where it stands."""

    raw: dict[str, Any]
    request: ScoreRequest
    where: str

    def prompt(self) -> Prompt:
        """What is scored."""
        request = self.request
        return Prompt(request.prompt, request.candidates(), request.locale, request.tools, self.where)

    def body(self) -> dict[str, Any]:
        """The request of a scorer."""
        asked = {name: self.raw[name] for name in _FIELDS if self.raw.get(name) is not None}
        return asked | {"locale": self.request.locale, "route": self.request.route}


def read_windows(path: str, defaults: Defaults) -> Iterator[list[Row]]:
    """The rows of a file, some at a time; BadInput names the line and the field at fault."""
    lines = read_jsonl(path)
    while window := list(islice(lines, WINDOW)):
        yield [parse_row(raw, f"{path}, line {number}", defaults) for number, raw in window]


def parse_row(raw: dict[str, Any], where: str, defaults: Defaults) -> Row:
    """A row; BadInput says `where`, and which field does not fit."""
    try:
        request = ScoreRequest.model_validate({name: raw.get(name) for name in _FIELDS})
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    unsaid = {name: value for name, value in defaults._asdict().items() if getattr(request, name) is None}
    return Row(raw, request.model_copy(update=unsaid), where)
