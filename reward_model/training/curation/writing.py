"""JSON lines whose bytes depend on nothing but the rows: no time, no name of a file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def json_line(row: dict[str, Any]) -> bytes:
    """One row as a line; a lone surrogate, which UTF-8 cannot hold, stays the escape that it was."""
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSONL file, compressed if its name ends in .gz; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as compressed:
                compressed.writelines(map(json_line, rows))
        else:
            stream.writelines(map(json_line, rows))
