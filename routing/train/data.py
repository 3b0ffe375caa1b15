"""The texts the router learns from, and which side of the split each is on.

A data folder holds `*.jsonl` or `*.jsonl.gz` files of `{"text", "route", "source"}`, route being billing, fraud,
other or ambiguous; the project's own `routing/data/authored.jsonl` is added to it. Texts that are the same bag
of content words ("block my chase account please", "please block my chase account") share a group, and a group
is never on two sides. A file whose name ends in `_val` is a published held-out part: all of it is test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from zlib import crc32

from routing.classifier import CLASSES
from routing.errors import BadInput
from routing.features import words
from routing.jsonl import read_jsonl

AUTHORED = Path(__file__).parent.parent / "data" / "authored.jsonl"

Side = Literal["train", "validation", "test", "unseen", "ambiguous"]

# Words that carry no topic; what is left identifies near-copies.
_EMPTY_WORDS = frozenset(
    (
        "i",
        "a",
        "an",
        "the",
        "my",
        "me",
        "is",
        "to",
        "of",
        "in",
        "on",
        "for",
        "do",
        "you",
        "can",
        "please",
        "how",
        "what",
        "it",
        "and",
        "was",
    )
)
_LABELS = {**{name: number for number, name in enumerate(CLASSES)}, "other": 0, "ambiguous": -1}


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text; label indexes CLASSES, or is -1 when people could not agree (ambiguous)."""

    text: str
    label: int
    source: str
    group: str
    side: Side
    style: str = "typed"
    domain: str = ""


def load(folder: Path, hold_out_phrasing: bool = False) -> list[Example]:
    """Read a data folder and the authored set; raises BadInput naming file and line.

    With hold_out_phrasing, the authored insurers and everything authored in spoken style leave the training
    and are the side `unseen`: whole domains and styles that the model then never saw.
    """
    public = [example for path in _files(folder) for example in _public(path)]
    tested = {example.group for example in public if example.side == "test"}
    kept = [example for example in public if example.side == "test" or example.group not in tested]
    return kept + [_place(example, hold_out_phrasing) for example in authored()]


def digests(folder: Path) -> list[dict[str, str]]:
    """Name and SHA-256 of every file that `load` reads."""
    return [
        {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in (*_files(folder), AUTHORED)
    ]


def authored() -> list[Example]:
    """The project's own texts, split by group."""
    return [
        Example(
            row["text"],
            _label(row, str(AUTHORED), number),
            "authored",
            row["group"],
            _side(row["group"]),
            row["style"],
            row["domain"],
        )
        for number, row in read_jsonl(str(AUTHORED))
    ]


def is_unseen_phrasing(example: Example) -> bool:
    """Authored texts of insurers, or in spoken style."""
    return example.source == "authored" and (example.domain == "insurer" or "transcript" in example.style)


def on(side: Side, examples: Iterable[Example]) -> list[Example]:
    """The examples of one side."""
    return [example for example in examples if example.side == side]


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.glob("*.jsonl*") if path.suffix in {".jsonl", ".gz"})
    if not files:
        raise BadInput(f"{folder}: no *.jsonl or *.jsonl.gz file to train on")
    return files


def _public(path: Path) -> Iterable[Example]:
    name = path.name.split(".")[0]
    source = name.rsplit("_", 1)[0]
    for number, row in read_jsonl(str(path)):
        label = _label(row, str(path), number)
        group = _content_key(row["text"])
        side: Side = "test" if name.endswith("_val") else _side(group)
        if name.endswith("_train") and (path.parent / path.name.replace("_train", "_val")).exists():
            side = "train" if side == "test" else side
        yield Example(row["text"], label, source, group, "ambiguous" if label < 0 else side)


def _label(row: dict[str, object], path: str, number: int) -> int:
    route = row.get("route")
    if not isinstance(row.get("text"), str) or not isinstance(route, str) or route not in _LABELS:
        raise BadInput(f"{path}, line {number}: expected a `text` and a `route` of {', '.join(_LABELS)}")
    return _LABELS[route]


def _content_key(text: str) -> str:
    return " ".join(sorted(set(words(text)) - _EMPTY_WORDS)) or text


def _side(group: str) -> Side:
    """65 % train, 15 % validation, 20 % test, by the group's hash: stable when data are added."""
    share = crc32(group.encode()) % 100
    return "test" if share < 20 else "validation" if share < 35 else "train"


def _place(example: Example, hold_out_phrasing: bool) -> Example:
    return replace(example, side="unseen") if hold_out_phrasing and is_unseen_phrasing(example) else example
