"""Lists in pages, by cursor: nothing is skipped or shown twice while rows are added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import InvalidRequest
from service.store.rows import Row


class Cursor(NamedTuple):
    """Where a page begins: behind the row `after`, or such that it ends ahead of the row `before`."""

    limit: int
    after: str | None = None
    before: str | None = None


class Page(NamedTuple):
    """Rows in the order of the list, and whether there are more in the direction that was asked for."""

    rows: list[Row]
    has_more: bool


async def read_page(
    connection: AsyncConnection,
    query: Select[Any],
    order: Sequence[ColumnElement[Any]],
    cursor: Cursor,
    *,
    newest_first: bool,
) -> Page:
    """One page of `query`, ordered by `order`, whose last column is the id that cursors name.

    Raises InvalidRequest for a cursor that names no row, and for two cursors at once.
    """
    if cursor.after is not None and cursor.before is not None:
        raise InvalidRequest("`after` and `before` exclude each other", param="before")
    backwards = cursor.before is not None
    name = cursor.before if backwards else cursor.after
    descending = newest_first != backwards
    if name is not None:
        edge = await _edge(connection, order, name, "before" if backwards else "after")
        columns = tuple_(*order)
        query = query.where(columns < edge if descending else columns > edge)
    query = query.order_by(*(column.desc() if descending else column for column in order)).limit(cursor.limit + 1)
    rows = [dict(row) for row in (await connection.execute(query)).mappings()]
    page = rows[: cursor.limit]
    return Page(page[::-1] if backwards else page, len(rows) > cursor.limit)


async def _edge(connection: AsyncConnection, order: Sequence[ColumnElement[Any]], name: str, param: str) -> Any:
    row = (await connection.execute(select(*order).where(order[-1] == name))).one_or_none()
    if row is None:
        raise InvalidRequest(f"{param}={name} names no entry of this list", param=param, code="no_such_cursor")
    return tuple_(*row)
