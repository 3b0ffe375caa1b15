"""JSON lines from and to a path, a `.gz` path, or `-` for the standard streams."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from reward_model.errors import BadInput


@contextmanager
def open_text(path: str, mode: str = "r") -> Iterator[TextIO]:
    """Open `path` for "r" or "w"; the standard streams are left open."""
    if path == "-":
        yield sys.stdin if mode == "r" else sys.stdout
        return
    opener = gzip.open if path.endswith(".gz") else open
    try:
        stream = cast(TextIO, opener(path, mode + "t", encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from error
    with stream:
        yield stream


def read_jsonl(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object); blank lines are passed over.

    Raises BadInput naming file and line for anything that is not one JSON object a line.
    """
    with open_text(path) as stream:
        try:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, parse_line(f"{path}, line {number}", line)
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise BadInput(f"{path}: not UTF-8 text, or a damaged .gz file ({error})") from error


def parse_line(where: str, line: str) -> dict[str, Any]:
    """The object on a line; BadInput says `where` it is none."""
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise BadInput(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def json_line(row: Any) -> bytes:
    """One row as a line; a lone surrogate, which UTF-8 cannot hold, stays the escape that it was."""
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """One object a line, in one step; its folder is made.

    A name that ends in .gz is compressed; the same rows give the same bytes, whatever the time and the name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.writing")
    with scratch.open("wb") as stream:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as compressed:
                compressed.writelines(map(json_line, rows))
        else:
            stream.writelines(map(json_line, rows))
    scratch.replace(path)
