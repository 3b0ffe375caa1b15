"""Pairs from files, with everything that is wrong in them: a whole list of errors is mended in one go."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from pydantic import ValidationError

from reward_model.errors import BadInput
from reward_model.faults import fault_of
from reward_model.jsonl import open_text
from reward_model.labels import Pair, as_completion


@dataclass(frozen=True)
class SchemaError:
    """A line that holds no pair; `line` 0 is the file itself."""

    file: str
    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: " + (f"{self.field}: " if self.field else "") + self.message


@dataclass
class PairFile:
    """What one file holds: its pairs, the line of each, and its errors."""

    path: str
    pairs: list[Pair] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    errors: list[SchemaError] = field(default_factory=list)


def read_file(path: str) -> PairFile:
    """Read every line of a JSONL file that can be read, and note the others."""
    read = PairFile(path)
    try:
        with open_text(path) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    _read_line(read, number, line)
    except BadInput as error:
        read.errors.append(SchemaError(path, 0, "", str(error)))
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        read.errors.append(SchemaError(path, 0, "", f"not UTF-8 text, or a damaged .gz file ({error})"))
    return read


def _read_line(read: PairFile, number: int, line: str) -> None:
    try:
        pair = Pair.model_validate(json.loads(line))
        # Some contents, images say, are well-formed and yet no text.
        _read_texts(pair)
    except ValidationError as error:
        read.errors += [SchemaError(read.path, number, *fault_of(problem)) for problem in error.errors()]
    except BadInput as error:
        read.errors.append(SchemaError(read.path, number, error.param or "", str(error)))
    except (ValueError, RecursionError) as error:
        read.errors.append(SchemaError(read.path, number, "", f"not JSON ({error})"))
    else:
        read.pairs.append(pair)
        read.lines.append(number)


def _read_texts(pair: Pair) -> None:
    for message in pair.prompt:
        message.text()
    for reply in (pair.chosen, pair.rejected):
        as_completion(reply).text()


# Names under which a file or its folder says which split it holds.
_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


def split_names(paths: Sequence[str]) -> Iterator[str]:
    """A split's name for each file: the one that the file or its folder has, else the path.

    >>> list(split_names(["out/train/pairs.jsonl.gz", "test.jsonl", "extra.jsonl"]))
    ['train', 'test', 'extra.jsonl']
    """
    for path in paths:
        pure = PurePath(path)
        found = [_SPLITS.get(name) for name in (pure.name.split(".")[0], pure.parent.name)]
        yield next((name for name in found if name), path)
