"""Where it is kept: an engine for SQLite or Postgres, at the newest schema."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
from alembic import command
from alembic.config import Config
from filelock import FileLock
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service.errors import SetupError

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
# Any number that no other program locks by.
_MIGRATION_LOCK = 7_302_118
_BUSY_MS = 10_000


async def open_database(url: str) -> AsyncEngine:
    """An engine for `sqlite:///FILE` or `postgresql://HOST/NAME`, its schema brought up to date.

    Raises SetupError where the address is neither, or nothing answers there.
    """
    where = parse_url(url)
    on_sqlite = where.get_backend_name() == "sqlite"
    engine = create_async_engine(where, json_serializer=_json, pool_pre_ping=not on_sqlite)
    if on_sqlite:
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    try:
        if on_sqlite:
            await asyncio.to_thread(Path(str(where.database)).parent.mkdir, parents=True, exist_ok=True)
        await _migrate(engine, where)
    except (SQLAlchemyError, OSError) as error:
        await engine.dispose()
        raise SetupError(f"the store {where.render_as_string()} cannot be opened: {_first_line(error)}") from error
    return engine


def parse_url(url: str) -> URL:
    """With the driver that is used here; SetupError for what is no such address."""
    try:
        where = make_url(url)
    except ArgumentError as error:
        raise SetupError(f"the store's address {url!r} is not one such as sqlite:///winnow.db") from error
    driver = _DRIVERS.get(where.get_backend_name())
    if driver is None:
        raise SetupError(f"the store is kept in sqlite or postgresql, not in {where.get_backend_name()}")
    return where.set(drivername=driver)


async def _migrate(engine: AsyncEngine, where: URL) -> None:
    """One process at a time; the others wait and find it done."""
    if engine.dialect.name == "sqlite":
        with FileLock(f"{where.database}.lock", timeout=60):
            async with engine.connect() as connection:
                await connection.run_sync(_upgrade)
                await connection.commit()
        return
    async with engine.connect() as connection:
        await connection.execute(text("select pg_advisory_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        try:
            await connection.run_sync(_upgrade)
            await connection.commit()
        finally:
            await connection.execute(text("select pg_advisory_unlock(:lock)"), {"lock": _MIGRATION_LOCK})


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _set_up_sqlite(connection: Any, _: Any) -> None:
    """Readers and the writer side by side; what is committed survives a loss of power."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]
