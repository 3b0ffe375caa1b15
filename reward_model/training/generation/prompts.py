"""What replies are sampled for: prompts, each with the reply that is known to be good, if there is one."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from reward_model.errors import BadInput
from reward_model.faults import first_fault
from reward_model.jsonl import read_jsonl
from reward_model.labels import Label, Origin, as_completion
from reward_model.text.formatting import Completion, Message


class PromptRow(BaseModel):
    """A line of prompts, of pairs or of labelled replies: a pair's winner is its reference."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    id: str
    prompt: list[Message] = Field(min_length=1, validation_alias=AliasChoices("prompt", "messages"))
    group: str | None = None
    bucket: str = "unknown"
    locale: str = Field("en", validation_alias=AliasChoices("locale", "lang"))
    source: str = "unknown"
    licence: str | None = None
    risk: str = "normal"
    reference: str | Completion | None = Field(None, validation_alias=AliasChoices("reference", "chosen"))
    reference_origin: Origin | None = None
    reference_label: Label | None = Field(
        None, description="Who says that the reference is better than any sample; null: nobody yet."
    )

    def reference_reply(self) -> Completion | None:
        """The reply that the samples are set against."""
        return None if self.reference is None else as_completion(self.reference)

    def shared(self) -> dict[str, Any]:
        """What every pair of this prompt carries."""
        names = ("prompt", "bucket", "locale", "source", "licence", "risk")
        return {"group": self.group or self.id, **{name: getattr(self, name) for name in names}}


def read_prompts(path: str, origin: str | None = None, label: str | None = None) -> list[PromptRow]:
    """The distinct prompts of a file, each with its first reference.

    `origin` and `label` are those of references whose rows do not say. Raises BadInput naming the line at fault,
    or when an id stands for two prompts.
    """
    rows: dict[tuple[str, ...], PromptRow] = {}
    lines: dict[str, int] = {}
    for number, raw in read_jsonl(path):
        row = _row(raw, origin, label, f"{path}, line {number}")
        key = (row.group or row.id, *(f"{message.role}:{message.text()}" for message in row.prompt))
        if key in rows:
            continue
        if row.id in lines:
            raise BadInput(f"{path}, line {number}: the id {row.id} stands for another prompt on line {lines[row.id]}")
        lines[row.id] = number
        rows[key] = row
    if not rows:
        raise BadInput(f"{path} has no prompts")
    return list(rows.values())


def _row(raw: dict[str, Any], origin: str | None, label: str | None, where: str) -> PromptRow:
    origins = raw.get("origin")
    wrote = origins.get("chosen") if isinstance(origins, dict) else None
    own = {name: value for name, value in raw.items() if value is not None}
    try:
        return PromptRow.model_validate({"reference_origin": wrote or origin, "reference_label": label, **own})
    except ValidationError as error:
        fault = first_fault(error)
        raise BadInput(f"{where}: {fault}", fault.field) from error
