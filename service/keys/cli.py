"""`winnow key`: makes, lists and revokes API keys. A running gateway follows without a restart."""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from service.errors import SetupError
from service.terminal import ConfigOption, clear_errors

_SPAN = re.compile(r"([1-9]\d{0,5})([dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}


class _MakesByDefault(TyperGroup):
    """`winnow key TENANT` is `winnow key make TENANT`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["make", *args]
        return super().parse_args(ctx, args)


key_app = typer.Typer(cls=_MakesByDefault, add_completion=False, no_args_is_help=True)
KeysOption = Annotated[Path | None, typer.Option(help="The gateway's keys file; else the settings' `keys_file`.")]


@key_app.callback()
def _root() -> None:
    """API keys: make, list, revoke."""


@key_app.command()
def make(
    tenant: Annotated[str, typer.Argument(help="Whom the key is for; limits and lookups are by tenant.")],
    keys: KeysOption = None,
    role: Annotated[str, typer.Option(help="client, operator or admin.")] = "client",
    name: Annotated[
        str | None, typer.Option(help="Person or program that holds it, as the log of actions says.")
    ] = None,
    tenants: Annotated[
        str | None,
        typer.Option(help="Tenants whose data an operator or admin sees, with commas; `*` for all. Else its own."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it expires: 90d, 12h, 30m, or a date such as 2027-01-31.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Make an API key; it is printed once, and only its hash is kept."""
    from service.keys.key_file import make_key

    with clear_errors():
        seen = None if tenants is None else tuple(part.strip() for part in tenants.split(","))
        path = _keys_file(keys, config)
        key, stored = make_key(path, tenant, role, name=name, tenants=seen, expires_at=_expiry(expires))
        until = f", expires {stored.expires_at.isoformat()}" if stored.expires_at else ""
        print(f"key {stored.id} for {tenant} ({role}{until}) in {path}", file=sys.stderr)
        print(key)


@key_app.command("list")
def list_keys(
    keys: KeysOption = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List the keys: ids, never the keys themselves."""
    from service.keys.key_file import read_keys

    with clear_errors():
        stored = read_keys(_keys_file(keys, config))
    if as_json:
        for key in stored:
            print(key.model_dump_json(exclude={"sha256"}))
        return
    rows = [("ID", "TENANT", "ROLE", "NAME", "SEES", "MADE", "EXPIRES")]
    for key in stored:
        seen = "" if key.role == "client" else ",".join(key.tenants or (key.tenant,))
        rows.append((key.id, key.tenant, key.role, key.name or "", seen, _day(key.created_at), _day(key.expires_at)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@key_app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `winnow key list` shows it.")],
    keys: KeysOption = None,
    config: ConfigOption = None,
) -> None:
    """Revoke a key: the next request with it is refused."""
    from service.keys.key_file import revoke_key

    with clear_errors():
        revoked = revoke_key(_keys_file(keys, config), key_id)
    print(f"revoked {revoked.id} of {revoked.tenant} ({revoked.role})")


def _keys_file(keys: Path | None, config: Path | None) -> Path:
    from service.settings import load_settings

    if (path := keys or load_settings(config).keys_file) is None:
        raise SetupError("name the keys file with --keys, or set keys_file")
    return path


def _expiry(text: str | None) -> datetime.datetime | None:
    if text is None:
        return None
    if span := _SPAN.fullmatch(text):
        later = datetime.timedelta(**{_UNITS[span[2]]: int(span[1])})
        return datetime.datetime.now(datetime.UTC).replace(microsecond=0) + later
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise SetupError(f"--expires {text}: write 90d, 12h, 30m, or a date such as 2027-01-31 (UTC)") from error
    return at if at.tzinfo else at.replace(tzinfo=datetime.UTC)


def _day(at: datetime.datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(datetime.UTC):%Y-%m-%d %H:%M}"
