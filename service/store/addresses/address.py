"""The store's address as people and hosting providers write it: SQLite files, and every common form of Postgres URL.

No message from here holds a password: an address is shown by `Address.shown`, and a part that cannot be read is not
repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from sqlalchemy.engine import URL

from service.errors import SetupError
from service.store.addresses.postgres import connect_arguments

_POSTGRES = {"postgresql", "postgres", "pgsql", "postgis"}
_EXAMPLES = "sqlite:////var/lib/winnow/winnow.db or postgresql://USER:PASSWORD@HOST:5432/NAME"
_ENCODE = "write special characters of the user and the password percent-encoded (`@` as %40, `/` as %2F, `?` as %3F)"


@dataclass(frozen=True)
class Address:
    """`url` names the dialect and the driver, `arguments` go to the driver, `shown` is for messages."""

    url: URL
    shown: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()

    @property
    def on_sqlite(self) -> bool:
        """Whether it is a file."""
        return self.url.get_backend_name() == "sqlite"

    def clean(self, message: str) -> str:
        """A driver's message as one line without any password of the address."""
        line = next(iter(message.strip().splitlines()), "no reason was given")
        for secret in self.secrets:
            line = line.replace(secret, "***")
        return line


def parse_address(text: str) -> Address:
    """Raises SetupError that names what is wrong with an address, and what to write instead."""
    scheme, separator, rest = text.strip().partition("://")
    kind, _, _driver = scheme.lower().partition("+")
    if kind == "jdbc:postgresql":
        raise SetupError("the store's address is one of JDBC; write postgresql://USER:PASSWORD@HOST:5432/NAME instead")
    if not separator:
        raise SetupError(f"the store's address is not one such as {_EXAMPLES}")
    if not unquote(text.strip()).isprintable():
        raise SetupError("the store's address has a character that cannot stand in one, such as a line break")
    if kind == "sqlite":
        return _sqlite(rest)
    if kind in _POSTGRES:
        return _postgres(rest)
    known = kind if kind.isalnum() else "another database"
    raise SetupError(f"the store is kept in SQLite or Postgres, not in {known}; write {_EXAMPLES}")


def _sqlite(rest: str) -> Address:
    path, mark, _ = rest.partition("?")
    path = unquote(path.removeprefix("/"))
    if mark:
        raise SetupError(f"the store's address sqlite:///{path} takes no parameters; leave out what follows the `?`")
    if not rest.startswith("/") or not path or path.startswith(":memory:"):
        raise SetupError(f"the store's address needs the path of a file, such as {_EXAMPLES.split(' or ')[0]}")
    return Address(URL.create("sqlite+aiosqlite", database=path), f"sqlite:///{path}")


def _postgres(rest: str) -> Address:
    before, _, query = rest.partition("?")
    # The last `@`: a password may hold others that are not encoded.
    authority, _, place = before.rpartition("@")
    hosts, _, database = place.partition("/")
    user, _, password = authority.partition(":")
    parameters = _parameters(query)
    addresses = [_host(part) for part in hosts.split(",")] if hosts else []
    arguments: dict[str, Any] = {"user": unquote(user), "password": unquote(password), "database": unquote(database)}
    arguments = {name: value for name, value in arguments.items() if value}
    for own, names in (("user", ("user",)), ("password", ("password",)), ("database", ("dbname", "database"))):
        given = [parameters.pop(name) for name in names if name in parameters]
        if given and own not in arguments:
            arguments[own] = given[-1]
    if "host" in parameters and not addresses:
        addresses = [_host(part) for part in parameters["host"].split(",")]
    parameters.pop("host", None)
    ports = parameters.pop("port", "").split(",")
    addresses = [(host, port or _port(ports[min(n, len(ports) - 1)])) for n, (host, port) in enumerate(addresses)]
    if addresses:
        arguments |= {"host": [host for host, _ in addresses], "port": [port or 5432 for _, port in addresses]}
    secrets = tuple({value for value in (password, arguments.get("password"), parameters.get("sslpassword")) if value})
    shown = _shown(arguments)
    return Address(URL.create("postgresql+asyncpg"), shown, arguments | connect_arguments(parameters), secrets)


def _parameters(query: str) -> dict[str, str]:
    """The last of each, as libpq has it; hosts are gathered, as SQLAlchemy has it."""
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if not name.isidentifier():
            # The end of a password with a `?`, perhaps: it is not repeated.
            raise SetupError(f"the store's address cannot be read: what follows the `?` is no NAME=VALUE; {_ENCODE}")
        gathered = name == "host" and name in parameters
        parameters[name] = f"{parameters[name]},{value}" if gathered else value
    return parameters


def _host(text: str) -> tuple[str, int | None]:
    """One host with its port, if it has one: a name, an IPv6 address in brackets, or the folder of a socket."""
    if text.startswith("["):
        host, _, after = text[1:].partition("]")
        return host, _port(after.removeprefix(":"))
    if text.startswith(("/", "%2F", "%2f")):
        return unquote(text), None
    host, _, port = text.partition(":")
    return unquote(host), _port(port)


def _port(text: str) -> int | None:
    if not text:
        return None
    # What stands here may be the end of a password that was not encoded: it is not repeated.
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:6]) < 65_536:
        raise SetupError(
            f"the store's address cannot be read: its port is no number from 1 to 65535. If a password stands there, "
            f"{_ENCODE}"
        )
    return int(text)


def _shown(arguments: Mapping[str, Any]) -> str:
    ports = arguments.get("port", [])
    hosts = ",".join(
        f"[{host}]:{port}" if ":" in host else host if host.startswith("/") else f"{host}:{port}"
        for host, port in zip(arguments.get("host", []), ports, strict=True)
    )
    password = ":***" if "password" in arguments else ""
    user = f"{arguments['user']}{password}@" if "user" in arguments else ""
    return f"postgresql://{user}{hosts}/{arguments.get('database', '')}"
