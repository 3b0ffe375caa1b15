"""Files in parts of some rows each, so that several processes score one file, and a run goes on from finished parts.

A part of JSONL is a range of bytes, one of Parquet a range of rows: a worker reads its own and nothing before it.
The output has the input's format, so that Parquet keeps its schema.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from reward_model.errors import BadInput, PreparationError, RewardModelError
from reward_model.jsonl import json_line, parse_line
from reward_model.offline.rows import Defaults, Row, parse_row

Added = Sequence[dict[str, Any]]


class Part(NamedTuple):
    """Rows of a file: bytes `begin` to `end` of JSONL, or those rows of Parquet; `first` is the number of its first
    line or row, from 1."""

    number: int
    begin: int
    end: int
    first: int
    rows: int


class Format(Protocol):
    """How a file is read in parts, and what is added to its rows is written."""

    suffix: str

    def plan(self, path: Path, rows: int) -> list[Part]:
        """Parts of at most `rows` rows."""

    def read(self, path: Path, part: Part, defaults: Defaults) -> list[Row]:
        """The rows of a part; BadInput names the row and the field at fault."""

    def write(self, target: Path, rows: Sequence[Row], path: Path, part: Part, added: Added) -> None:
        """The rows of a part with what is added to them."""

    def merge(self, parts: Sequence[Path], out: Path, final: str) -> int:
        """All parts, in order, in one file whose name will be `final`; how many rows it has."""


def format_of(path: str) -> Format:
    """By the file's name."""
    return _Parquet() if path.endswith(".parquet") else _Lines()


def whole(path: Path, out: Path, format: Format, parts: Sequence[Path], rows: int) -> None:
    """Let `out` appear with the rows of all parts, or not at all."""
    scratch = out.with_name(f".{out.name}.writing")
    if (count := format.merge(parts, scratch, out.name)) != rows:
        raise RewardModelError(f"the parts hold {count} rows and {path} has {rows}; delete the parts and run again")
    with scratch.open("rb") as stream:
        os.fsync(stream.fileno())
    scratch.replace(out)


class _Lines:
    suffix = ".jsonl"

    def plan(self, path: Path, rows: int) -> list[Part]:
        parts: list[Part] = []
        begin = end = number = count = 0
        first = 1
        with _opened(path) as stream:
            for number, line in enumerate(stream, 1):
                end += len(line)
                count += bool(line.strip())
                if count == rows:
                    parts.append(Part(len(parts), begin, end, first, count))
                    begin, first, count = end, number + 1, 0
        return parts if not count else [*parts, Part(len(parts), begin, end, first, count)]

    def read(self, path: Path, part: Part, defaults: Defaults) -> list[Row]:
        with _opened(path) as stream:
            stream.seek(part.begin)
            lines = stream.read(part.end - part.begin).split(b"\n")
        return [
            parse_row(parse_line(where, _text(where, line)), where, defaults)
            for number, line in enumerate(lines, part.first)
            if line.strip()
            for where in [f"{path}, line {number}"]
        ]

    def write(self, target: Path, rows: Sequence[Row], path: Path, part: Part, added: Added) -> None:
        target.write_bytes(b"".join(json_line(row.raw | more) for row, more in zip(rows, added, strict=True)))

    def merge(self, parts: Sequence[Path], out: Path, final: str) -> int:
        count = 0
        with gzip.open(out, "wb") if final.endswith(".gz") else out.open("wb") as stream:
            for part in parts:
                content = part.read_bytes()
                count += content.count(b"\n")
                stream.write(content)
        return count


class _Parquet:
    """`prompt`, `completions` and `tools` are nested columns or JSON text. Every row of a nested column has all its
    fields, so a null inside means that the row does not have it."""

    suffix = ".parquet"

    def plan(self, path: Path, rows: int) -> list[Part]:
        total = _parquet_file(*_version(path)).metadata.num_rows
        begins = range(0, total, rows)
        return [
            Part(number, begin, min(begin + rows, total), begin + 1, min(rows, total - begin))
            for number, begin in enumerate(begins)
        ]

    def read(self, path: Path, part: Part, defaults: Defaults) -> list[Row]:
        table = self._table(path, part)
        nested = [name for name in ("prompt", "completions", "tools") if name in table.column_names]
        picks = [name for name in ("locale", "route", "stopping_rule") if name in table.column_names]
        rows = []
        for number, raw in enumerate(table.select([*nested, *picks]).to_pylist(), part.first):
            where = f"{path}, row {number}"
            values = {name: _value(f"{where}: {name}", raw[name]) for name in nested}
            rows.append(parse_row(raw | values, where, defaults))
        return rows

    def write(self, target: Path, rows: Sequence[Row], path: Path, part: Part, added: Added) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        numbers = pa.list_(pa.float64())
        table = self._table(path, part)
        for name, kind in (("scores", numbers), ("probabilities", numbers), ("orm", pa.string())):
            if name in table.column_names:
                table = table.drop_columns([name])
            table = table.append_column(name, pa.array([more[name] for more in added], kind))
        pq.write_table(table, target)

    def merge(self, parts: Sequence[Path], out: Path, final: str) -> int:
        import pyarrow.parquet as pq

        count = 0
        with pq.ParquetWriter(out, pq.read_schema(parts[0])) as writer:
            for part in parts:
                table = pq.read_table(part)
                writer.write_table(table)
                count += table.num_rows
        return count

    def _table(self, path: Path, part: Part) -> Any:
        import pyarrow as pa

        version = _version(path)
        metadata = _parquet_file(*version).metadata
        pieces, start = [], 0
        for group in range(metadata.num_row_groups):
            stop = start + metadata.row_group(group).num_rows
            begin, end = max(part.begin, start), min(part.end, stop)
            if begin < end:
                pieces.append(_row_group(*version, group).slice(begin - start, end - begin))
            start = stop
        return pa.concat_tables(pieces)


def _version(path: Path) -> tuple[str, int]:
    """A file, and when it was written: what is remembered of it holds for that version."""
    with _opened(path) as stream:
        return str(path), os.fstat(stream.fileno()).st_mtime_ns


@lru_cache(1)
def _parquet_file(path: str, written: int) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise PreparationError("pyarrow is not installed: pip install 'winnow-rerank[export]'") from error
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise BadInput(f"{path}: {error}") from error


# The parts of one row group follow one another: without this, each would decode all of it again.
@lru_cache(2)
def _row_group(path: str, written: int, group: int) -> Any:
    return _parquet_file(path, written).read_row_group(group)


def _value(where: str, value: Any) -> Any:
    if not isinstance(value, str):
        return _without_nulls(value)
    try:
        return json.loads(value)
    except ValueError as error:
        raise BadInput(f"{where}: not JSON ({error})") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from error


def _text(where: str, line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: not UTF-8 text ({error})") from error
