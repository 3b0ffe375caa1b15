"""An engine for the store's address, SQLite or Postgres, with the schema brought up to date."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from filelock import FileLock
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service.errors import SetupError
from service.store.addresses.address import Address, parse_address

# Any number that no other program locks by.
_MIGRATION_LOCK = 7_302_118
_BUSY_MS = 10_000
_LOCK_SECONDS = 60.0


async def open_database(url: str, *, busy_ms: int = _BUSY_MS) -> AsyncEngine:
    """An engine for `sqlite:///FILE` or `postgresql://HOST/NAME`, its schema brought up to date.

    Raises SetupError if the address is neither, nothing answers there, or a newer Winnow has written there.
    """
    address = parse_address(url)
    if address.on_sqlite:
        await asyncio.to_thread(_prepare_file, Path(str(address.url.database)), address)
    engine = _engine(address, busy_ms)
    try:
        await _migrate(engine, address)
    except SetupError:
        await engine.dispose()
        raise
    except (SQLAlchemyError, CommandError, OSError, ValueError) as error:
        await engine.dispose()
        reason = address.clean(str(getattr(error, "orig", None) or error))
        raise SetupError(f"the store {address.shown} cannot be opened: {reason}{_remedy(reason)}") from None
    return engine


async def check_database(url: str | None) -> None:
    """Open the store once, and close it. Raises SetupError as `open_database` does."""
    if url is not None:
        await (await open_database(url)).dispose()


def _engine(address: Address, busy_ms: int) -> AsyncEngine:
    # Without `hide_parameters` a statement that fails is logged with what people wrote.
    options: dict[str, Any] = {"json_serializer": _json, "hide_parameters": True}
    if address.on_sqlite:
        engine = create_async_engine(address.url, **options)
        event.listen(engine.sync_engine, "connect", partial(_set_up_sqlite, busy_ms))
        return engine
    try:
        import asyncpg
    except ModuleNotFoundError as error:
        raise SetupError("a store in Postgres needs asyncpg: pip install 'winnow-rerank[postgres]'") from error

    async def connect(**arguments: Any) -> Any:
        """What asyncpg says of a server that does not let us in is not among SQLAlchemy's errors."""
        try:
            return await asyncpg.connect(**arguments)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise ConnectionError(address.clean(str(error))) from None

    arguments = {**address.arguments, "async_creator_fn": connect}
    return create_async_engine(address.url, connect_args=arguments, pool_pre_ping=True, **options)


def _prepare_file(path: Path, address: Address) -> None:
    """The folder of a file. Raises SetupError for what cannot become one, before SQLite says less of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"the store {address.shown} cannot be opened: {path.parent}: {error.strerror}") from error
    if path.is_dir():
        raise SetupError(f"the store {address.shown} cannot be opened: it is a folder; name a file in it")
    try:
        # A lock that cannot be made is waited for, as one that is held.
        Path(f"{path}.lock").touch()
    except OSError as error:
        reason = f"{path.parent} is not writable for this user ({error.strerror})"
        raise SetupError(f"the store {address.shown} cannot be opened: {reason}") from error


async def _migrate(engine: AsyncEngine, address: Address) -> None:
    """One process at a time; the others wait and find it done."""
    if address.on_sqlite:
        with FileLock(f"{address.url.database}.lock", timeout=_LOCK_SECONDS):
            async with engine.connect() as connection:
                await connection.run_sync(_upgrade, address)
                await connection.commit()
        return
    async with engine.connect() as connection:
        # Held by the transaction, not the session: a pooler may give the session to others.
        await connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        await connection.run_sync(_upgrade, address)
        await connection.commit()


def _upgrade(connection: Connection, address: Address) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    heads = MigrationContext.configure(connection).get_current_heads()
    if newer := sorted(set(heads) - known):
        raise SetupError(
            f"the store {address.shown} was written by a newer Winnow (its schema is {newer[0]}, this version knows "
            f"{scripts.get_current_head()}): run that version or a later one, or open a backup of before"
        )
    # What is up to date is not locked, nor written to.
    if set(heads) != set(scripts.get_heads()):
        command.upgrade(config, "head")


def _set_up_sqlite(busy_ms: int, connection: Any, _: Any) -> None:
    """Readers and the writer side by side; what is committed survives a loss of power; what is deleted is gone."""
    cursor = connection.cursor()
    pragmas = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
    for pragma in (f"busy_timeout={busy_ms}", *pragmas):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _remedy(reason: str) -> str:
    """What to do about the commonest of SQLite's short messages."""
    remedies = {
        "file is not a database": "; it is another program's file: name another one",
        "database is locked": "; another process holds it: end that one, or name another file",
        "attempt to write a readonly database": "; make the file and its folder writable for this user",
        "unable to open database file": "; make its folder writable for this user",
        "already exists": "; its tables are not Winnow's: name another database",
    }
    return next((remedy for start, remedy in remedies.items() if start in reason), "")
