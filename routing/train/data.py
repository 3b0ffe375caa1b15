"""The texts the router learns from, and which side of the split each is on.

A data folder holds `*.jsonl` or `*.jsonl.gz` files of `{"text", "route"}`. `default` and `other` are texts without
stakes, `ambiguous` ones are left out of training, and any other route is a class of its own. Texts without stakes that
are longer than a question (`SHORT` characters) teach how prose reads; a row's `group`, if it has one, keeps the texts
of one source together. The project's
`routing/data/authored.jsonl` (billing, fraud and default) is added unless the folder has classes of its own and
lacks one of those. Texts that are the same bag
of content words ("block my chase account please", "please block my chase account") share a group, and a group
is never on two sides. A file whose name ends in `_val` is a published held-out part: all of it is test.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple
from zlib import crc32

from routing.errors import BadRoutingInput
from routing.jsonl import read_jsonl
from routing.model.classifier import SHORT
from routing.model.features import words
from routing.routes import DEFAULT, ROUTE_PATTERN, SHIPPED, Route

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
_OTHER, _AMBIGUOUS = "other", "ambiguous"


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text; label indexes the classes, or is -1 when people could not agree (ambiguous)."""

    text: str
    label: int
    source: str
    group: str
    side: Side
    style: str = "typed"
    domain: str = ""


class Corpus(NamedTuple):
    """What a router is trained and measured on; `classes` starts with `default`.

    `examples` are read whole, `prose` (longer texts without stakes) in windows.
    """

    classes: tuple[Route, ...]
    examples: list[Example]
    prose: list[Example]

    def on(self, side: Side) -> list[Example]:
        """The examples of one side."""
        return on(side, self.examples)

    def prose_on(self, side: Side) -> list[Example]:
        """The prose of one side."""
        return on(side, self.prose)


def load(folder: Path, hold_out_phrasing: bool = False) -> Corpus:
    """Read a data folder and the authored set; raises BadRoutingInput naming file and line.

    With hold_out_phrasing, the authored insurers and everything authored in spoken style leave the training
    and are the side `unseen`: whole domains and styles that the model then never saw.
    """
    rows = {path: [_row(row, path, number) for number, row in read_jsonl(str(path))] for path in _files(folder)}
    names = {route for lines in rows.values() for _, route, _ in lines} - {_AMBIGUOUS}
    ours = names <= set(SHIPPED) or names >= set(SHIPPED[1:])
    classes = (*(SHIPPED if ours else (DEFAULT,)), *sorted(names - set(SHIPPED if ours else (DEFAULT,))))
    if len(classes) == 1:
        raise BadRoutingInput(f"{folder}: every text is {DEFAULT!r}; a router needs a second route to tell from it")
    public = [example for path, lines in rows.items() for example in _public(path, lines, classes)]
    tested = {example.group for example in public if example.side == "test"}
    kept = [example for example in public if example.side == "test" or example.group not in tested]
    kept += [_place(example, hold_out_phrasing) for example in (authored() if ours else ())]
    prose = [example for example in kept if example.label == 0 and len(example.text) > SHORT]
    return Corpus(classes, [example for example in kept if example.label != 0 or len(example.text) <= SHORT], prose)


def digests(folder: Path) -> list[dict[str, str]]:
    """Name and SHA-256 of every file that `load` reads."""
    return [
        {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in (*_files(folder), AUTHORED)
    ]


def authored() -> list[Example]:
    """The project's own texts, split by group; labels index SHIPPED, which begin every set of classes they join."""
    return [
        Example(
            row["text"],
            SHIPPED.index(row["route"]),
            "authored",
            row["group"],
            _side(row["group"]),
            row["style"],
            row["domain"],
        )
        for _, row in read_jsonl(str(AUTHORED))
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
        raise BadRoutingInput(f"{folder}: no *.jsonl or *.jsonl.gz file to train on")
    return files


def _row(row: dict[str, object], path: Path, number: int) -> tuple[str, Route, str]:
    """Text, route and group of a line."""
    text, route = row.get("text"), row.get("route")
    if not isinstance(text, str) or not isinstance(route, str) or not re.fullmatch(ROUTE_PATTERN, route):
        raise BadRoutingInput(
            f"{path}, line {number}: expected a `text` and a `route`: a name in lower-case letters, digits, - and _, "
            f"or {_OTHER} or {_AMBIGUOUS}"
        )
    group = row.get("group")
    return text, DEFAULT if route == _OTHER else route, group if isinstance(group, str) else _content_key(text)


def _public(path: Path, lines: Iterable[tuple[str, Route, str]], classes: tuple[Route, ...]) -> Iterable[Example]:
    name = path.name.split(".")[0]
    source = name.rsplit("_", 1)[0]
    for text, route, group in lines:
        label = -1 if route == _AMBIGUOUS else classes.index(route)
        side: Side = "test" if name.endswith("_val") else _side(group)
        if name.endswith("_train") and (path.parent / path.name.replace("_train", "_val")).exists():
            side = "train" if side == "test" else side
        yield Example(text, label, source, group, "ambiguous" if label < 0 else side)


def _content_key(text: str) -> str:
    return " ".join(sorted(set(words(text)) - _EMPTY_WORDS)) or text


def _side(group: str) -> Side:
    """65 % train, 15 % validation, 20 % test, by the group's hash: stable when data are added."""
    share = crc32(group.encode()) % 100
    return "test" if share < 20 else "validation" if share < 35 else "train"


def _place(example: Example, hold_out_phrasing: bool) -> Example:
    return replace(example, side="unseen") if hold_out_phrasing and is_unseen_phrasing(example) else example
