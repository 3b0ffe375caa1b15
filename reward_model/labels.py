"""Preference pairs and labelled replies: their schemas, reading them, and splitting them by group."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from reward_model.errors import BadInput
from reward_model.faults import first_fault
from reward_model.jsonl import read_jsonl
from reward_model.text.formatting import Completion, Message
from reward_model.vocabulary import Dimension

Split = Literal["train", "validation", "test"]
Origin = Literal["human", "policy", "older_policy", "teacher", "authored"]
Label = Literal["human", "judge", "authored", "review", "audit"]


class _LabelledRow(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    id: str
    prompt: list[Message] = Field(min_length=1)
    group: str = Field(description="One prompt, dialogue or tree; a group never spans two splits.")
    label: Label | None = None
    bucket: str = "unknown"
    locale: str = Field("en", validation_alias=AliasChoices("locale", "lang"))
    source: str = "unknown"
    licence: str | None = None


class Vote(BaseModel):
    """One annotator's choice in a pair: which of its two replies, or neither; `at` is when, for drift over time."""

    id: str
    vote: Literal["chosen", "rejected", "tie"]
    at: datetime | None = None


class Origins(BaseModel):
    """Who wrote the two replies."""

    chosen: Origin | None = None
    rejected: Origin | None = None


class Ratings(BaseModel):
    """What each reply got by itself, from 1 to 5."""

    chosen: float | None = Field(None, ge=1, le=5)
    rejected: float | None = Field(None, ge=1, le=5)


class Acceptable(BaseModel):
    """Whether each reply would be sent; None where nobody said."""

    chosen: bool | None = None
    rejected: bool | None = None


class Pair(_LabelledRow):
    """Two replies to one prompt, the better one first."""

    chosen: str | Completion
    rejected: str | Completion
    outcome: Literal["win", "tie"] = "win"
    strength: float | None = Field(None, ge=0.5, le=1)
    margin: float | None = None
    annotators: list[Vote] = Field(default_factory=list)
    dimensions: dict[Dimension, Literal[-1, 0, 1]] = Field(default_factory=dict)
    risk: Literal["high", "normal"] = "normal"
    failure_mode: str | None = None
    origin: Origins = Field(default_factory=Origins)
    ratings: Ratings = Field(default_factory=Ratings)
    acceptable: Acceptable = Field(default_factory=Acceptable)
    split: Split | None = Field(None, description="Where the set's own split puts the pair; else its group's hash.")
    shown_first: Literal["chosen", "rejected"] | None = Field(None, description="Which side annotators saw first.")

    @model_validator(mode="before")
    @classmethod
    def _from_meta(cls, row: Any) -> Any:
        """Margin and strength as public sets record them under `meta`, where the row has none of its own."""
        meta = row.get("meta") if isinstance(row, dict) else None
        if not isinstance(meta, dict):
            return row
        found = {"margin": _margin(meta), "strength": _agreement(meta.get("votes"))}
        return {**row, **{name: value for name, value in found.items() if value is not None and row.get(name) is None}}

    @model_validator(mode="after")
    def _labels_agree_with_the_outcome(self) -> Pair:
        if self.outcome == "win" and self.acceptable == Acceptable(chosen=False, rejected=True):
            raise ValueError("the losing reply is acceptable and the winning one is not")
        return self


def _margin(meta: dict[str, Any]) -> float | None:
    """The gap between ranks or ratings."""
    if "rank_gap" in meta:
        return float(meta["rank_gap"])
    if {"score_chosen", "score_rejected"} <= meta.keys():
        return float(meta["score_chosen"] - meta["score_rejected"])
    return None


def _agreement(votes: Any) -> float | None:
    """The share of annotators behind the winner, at least a half."""
    if not isinstance(votes, list) or not votes:
        return None
    return max(0.5, max(votes.count(vote) for vote in votes) / len(votes))


class HowSelected(BaseModel):
    """How a labelled reply came to be chosen among its candidates; rank null: not ranked."""

    model_config = ConfigDict(extra="ignore")

    n: int
    rank: int | None = None
    policy: str
    policy_revision: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    index: int | None = None


class LabelledReply(_LabelledRow):
    """One reply that somebody judged: would a reviewer send it?"""

    completion: str | Completion
    acceptable: bool
    rating: int | None = Field(None, ge=1, le=5)
    annotator: str | None = None
    selection: HowSelected | None = None
    chance: float | None = Field(
        None, gt=0, le=1, description="How likely such a reply was to be judged; null: unknown."
    )
    split: Literal["train", "calibration", "test"] | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None

    @property
    def verdict(self) -> tuple[bool, int]:
        """Orders the replies to one prompt: acceptable first, then by rating (0 where there is none)."""
        return self.acceptable, self.rating or 0

    def prompt_key(self) -> tuple[str, ...]:
        """Equal for the replies that were sampled for one prompt."""
        return (self.group, *(f"{message.role}:{message.text()}" for message in self.prompt))


Row = TypeVar("Row", bound=_LabelledRow)


def as_completion(value: str | Completion) -> Completion:
    """A plain string is a completion without tool calls."""
    return Completion(content=value) if isinstance(value, str) else value


def completions_of(pair: Pair) -> list[Completion]:
    """The pair's replies, the better one first."""
    return [as_completion(pair.chosen), as_completion(pair.rejected)]


def read_rows(path: str | Path, schema: type[Row]) -> Iterator[Row]:
    """Rows of a JSONL file; BadInput names file, line and field of the first that does not fit."""
    for number, raw in read_jsonl(str(path)):
        yield parse_row(raw, schema, f"{path}, line {number}")


def parse_row(raw: dict[str, Any], schema: type[Row], where: str) -> Row:
    """One row; BadInput says `where`, and which field does not fit."""
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        fault = first_fault(error)
        raise BadInput(f"{where}: {fault}", param=fault.field) from error


def split_of(group: str, fractions: tuple[float, float] = (0.1, 0.1)) -> Split:
    """Split of a group, by its hash: the same everywhere, whatever else is in the data.

    `fractions` are the shares of validation and test.
    """
    position = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) / 2**64
    if position < fractions[1]:
        return "test"
    return "validation" if position < fractions[0] + fractions[1] else "train"


def by_split(pairs: Iterable[Pair]) -> dict[Split, list[Pair]]:
    """Pairs by the split of their group, or by the one that they name."""
    splits: dict[Split, list[Pair]] = {"train": [], "validation": [], "test": []}
    for pair in pairs:
        splits[pair.split or split_of(pair.group)].append(pair)
    return splits


def digest(rows: Sequence[_LabelledRow]) -> str:
    """SHA-256 over the sorted ids: which rows, whatever their order."""
    return hashlib.sha256("\n".join(sorted(row.id for row in rows)).encode()).hexdigest()


def pairs_from_labels(replies: Iterable[LabelledReply], ties: bool = False) -> list[Pair]:
    """Every two replies to one prompt of which one was judged better, as a pair; with `ties`, the equal ones too.

    An acceptable reply is better than an unacceptable one; between two of a kind the rating decides, so that
    a prompt whose replies are all unacceptable still teaches which of them make sense.
    """
    by_prompt: dict[tuple[str, ...], list[LabelledReply]] = {}
    for reply in replies:
        by_prompt.setdefault(reply.prompt_key(), []).append(reply)
    return [
        _pair(better, worse)
        for members in by_prompt.values()
        for better in members
        for worse in members
        if better.verdict > worse.verdict or (ties and better.verdict == worse.verdict and better.id < worse.id)
    ]


def _pair(good: LabelledReply, bad: LabelledReply) -> Pair:
    shared: dict[str, Any] = {
        name: getattr(good, name) for name in ("prompt", "group", "label", "bucket", "locale", "source")
    }
    return Pair(
        id=f"{good.id}>{bad.id}",
        chosen=good.completion,
        rejected=bad.completion,
        outcome="win" if good.verdict > bad.verdict else "tie",
        ratings=Ratings(chosen=good.rating, rejected=bad.rating),
        acceptable=Acceptable(chosen=good.acceptable, rejected=bad.acceptable),
        risk="high",
        origin=Origins(chosen="policy", rejected="policy"),
        **shared,
    )
