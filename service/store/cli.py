"""`winnow store`: deletes and exports stored answers."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from service.errors import SetupError
from service.terminal import ConfigOption, clear_errors

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

store_app = typer.Typer(add_completion=False, no_args_is_help=True)
UrlOption = Annotated[str | None, typer.Option(help="The store's address; else the gateway's settings have it.")]
Result = TypeVar("Result")


@store_app.callback()
def _root() -> None:
    """The store of reranked requests: forget, export."""


@store_app.command()
def forget(
    tenant: Annotated[str, typer.Option(help="Whose application asked.")],
    user: Annotated[str, typer.Option(help="The `user` that its requests named.")],
    url: UrlOption = None,
    config: ConfigOption = None,
) -> None:
    """Delete all answers to a user, with their candidates."""
    from service.store.privacy.retention import forget_user

    _print({"deleted": on_store(url, config, lambda engine: forget_user(engine, tenant, user))})


@store_app.command()
def prune(
    days: Annotated[float, typer.Option(min=0, help="Delete answers that are older.")],
    url: UrlOption = None,
    config: ConfigOption = None,
) -> None:
    """Delete old answers now; the gateway does so every hour where `store.days` is set."""
    from service.store.privacy.retention import forget_older

    _print({"deleted": on_store(url, config, lambda engine: forget_older(engine, days))})


@store_app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where the Parquet file goes.")],
    day: Annotated[
        datetime.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="UTC; yesterday where not given.")
    ] = None,
    url: UrlOption = None,
    config: ConfigOption = None,
) -> None:
    """Write a day's answers as Parquet; run it every night."""
    from service.store.export import export_day

    chosen = day.date() if day else datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1)
    rows = on_store(url, config, lambda engine: export_day(engine, chosen, folder))
    _print({"day": chosen.isoformat(), "answers": rows})


def on_store(url: str | None, config: Path | None, work: Callable[[AsyncEngine], Awaitable[Result]]) -> Result:
    """Do something with the store that is named, else with the one of the settings; errors end the command."""
    from service.settings import load_settings
    from service.store.database import open_database

    async def opened() -> Result:
        address = url or load_settings(config).store.address()
        if address is None:
            raise SetupError("the settings keep no store; name one with --url")
        engine = await open_database(address)
        try:
            return await work(engine)
        finally:
            await engine.dispose()

    with clear_errors():
        return asyncio.run(opened())


def _print(value: dict[str, Any]) -> None:
    print(json.dumps(value))
