"""The history as Parquet, a file for each day, for whoever analyses it elsewhere."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.errors import SetupError
from service.store.tables import candidates, responses

_ROWS = 1_000


async def export_day(engine: AsyncEngine, day: datetime.date, folder: Path) -> int:
    """Write `responses-DAY.parquet`, candidates as a list in each row; how many rows there are. Days are UTC's.

    JSON columns are JSON text. The file is whole or not there. Raises SetupError without pyarrow.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise SetupError("an export needs pyarrow: pip install 'winnow-rerank[export]'") from error
    begins = datetime.datetime.combine(day, datetime.time(), datetime.UTC)
    first, last = (int(1000 * (begins + datetime.timedelta(days=n)).timestamp()) for n in (0, 1))
    schema = _schema(pa)
    rows = 0
    with _whole_file(folder / f"responses-{day.isoformat()}.parquet") as part, pq.ParquetWriter(part, schema) as writer:
        async with engine.connect() as connection:
            query = select(responses).where(responses.c.at_ms >= first, responses.c.at_ms < last)
            stream = await connection.stream(query.order_by(responses.c.at_ms))
            async for part_rows in stream.mappings().partitions(_ROWS):
                batch = await _with_candidates(engine, [dict(row) for row in part_rows])
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                rows += len(batch)
    return rows


@contextmanager
def _whole_file(target: Path) -> Iterator[Path]:
    """A path to write to, which becomes `target` when the block ends well and leaves nothing when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=".part")
    os.close(handle)
    try:
        yield Path(name)
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)


async def _with_candidates(engine: AsyncEngine, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_id: dict[str, list[dict[str, Any]]] = {row["id"]: [] for row in rows}
    async with engine.connect() as connection:
        query = select(candidates).where(candidates.c.response_id.in_(by_id)).order_by(candidates.c.index)
        for row in (await connection.execute(query)).mappings():
            by_id[row["response_id"]].append(_as_text(dict(row), candidates))
    return [_as_text(row, responses) | {"candidates": by_id[row["id"]]} for row in rows]


def _as_text(row: dict[str, Any], table: Any) -> dict[str, Any]:
    """JSON columns as text."""
    return {
        name: orjson.dumps(value).decode() if value is not None and _is_json(table.c[name]) else value
        for name, value in row.items()
    }


def _schema(pa: Any) -> Any:
    """Arrow's types of the tables' columns."""

    def field(column: Any) -> Any:
        kinds = {"BigInteger": pa.int64(), "Integer": pa.int32(), "Float": pa.float64(), "Boolean": pa.bool_()}
        return pa.field(column.name, kinds.get(type(column.type).__name__, pa.string()))

    inner = pa.list_(pa.struct([field(column) for column in candidates.c]))
    return pa.schema([*(field(column) for column in responses.c), pa.field("candidates", inner)])


def _is_json(column: Any) -> bool:
    return type(column.type).__name__ == "JSON"
