"""The parameters of a Postgres address, which are libpq's and other drivers', as arguments of asyncpg."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from service.errors import SetupError

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# Spellings of node-postgres, JDBC and asyncpg; libpq takes `ssl=true` for `require` too.
_SSL_WORDS = {"true": "require", "1": "require", "on": "require", "yes": "require", "no-verify": "require"}
_SSL_WORDS |= {"false": "disable", "0": "disable", "off": "disable", "no": "disable"}
_SSL_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
# What asyncpg reads from an address itself.
_SSL_REST = ("sslpassword", "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version")
# Settings of a session, by the names that addresses use for them.
_SESSION = {
    "application_name": "application_name",
    "options": "options",
    "search_path": "search_path",
    "schema": "search_path",
    "currentSchema": "search_path",
    "statement_timeout": "statement_timeout",
    "lock_timeout": "lock_timeout",
    "idle_in_transaction_session_timeout": "idle_in_transaction_session_timeout",
    "timezone": "timezone",
}
# A pooler that shares connections among transactions: a prepared statement may not be there the next time.
_CACHES = {"statement_cache_size", "prepared_statement_cache_size", "prepareThreshold", "prepared_statements"}
# They tune a socket or another program's pool, and nothing is less safe without them.
_IGNORED = {
    "connection_limit",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_cached_statement_lifetime",
    "pool_timeout",
    "socket_timeout",
    "sslcompression",
    "sslsni",
    "supa",
    "tcp_user_timeout",
    "uselibpqcompat",
    "workaround",
}
_WRITABLE = ("any", "primary", "read-write")
_CONNECT_SECONDS = 10.0

log = logging.getLogger("winnow.store")


def connect_arguments(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of asyncpg and of SQLAlchemy's layer over it. Raises SetupError that names a parameter it cannot
    translate, and what to write instead."""
    given = dict(parameters)
    arguments = _ssl(given) | _caches(given)
    settings = {own: given.pop(name) for name, own in _SESSION.items() if given.get(name)}
    fallback = given.pop("fallback_application_name", "")
    settings.setdefault("application_name", fallback or "winnow")
    arguments |= {"server_settings": settings, "timeout": _seconds(given, "connect_timeout", _CONNECT_SECONDS)}
    if "command_timeout" in given:
        arguments["command_timeout"] = _seconds(given, "command_timeout", None)
    arguments |= {name: given.pop(name) for name in ("passfile", "service") if name in given}
    if (target := given.pop("target_session_attrs", "any")) not in _WRITABLE:
        raise _refusal("target_session_attrs", target, f"the store is written to: {', '.join(_WRITABLE)}")
    arguments["target_session_attrs"] = target
    _drop(given)
    if given:
        name = min(given)
        raise SetupError(
            f"the store's address has the parameter {name!r}, which Winnow does not know: leave it out, or set it in "
            "Postgres for the role or the database"
        )
    return arguments


def _drop(given: dict[str, str]) -> None:
    """What changes nothing here, or cannot be had, is left out; where that is less safe it is said."""
    if given.pop("channel_binding", "prefer") == "require":
        log.warning("channel_binding=require is not supported; sslmode=verify-full authenticates the server instead")
    if (mode := given.pop("gssencmode", "disable")) == "require":
        raise _refusal("gssencmode", mode, "encrypt by TLS instead: sslmode=require")
    if (encoding := given.pop("client_encoding", "utf8")).lower().replace("-", "") not in ("utf8", "auto", "unicode"):
        raise _refusal("client_encoding", encoding, "the store is written in utf8")
    for name in _IGNORED & given.keys():
        del given[name]


def _ssl(given: dict[str, str]) -> dict[str, Any]:
    word = given.pop("ssl", None)
    mode = given.pop("sslmode", word)
    if mode is not None:
        mode = _SSL_WORDS.get(mode.lower(), mode.lower())
        if mode not in _SSL_MODES:
            raise _refusal("sslmode" if word is None else "ssl", mode, f"one of {', '.join(_SSL_MODES)}")
    files = {name: given.pop(name) for name in _SSL_FILES if given.get(name)}
    rest = {name: given.pop(name) for name in _SSL_REST if given.get(name)}
    roots = files.get("sslrootcert")
    for name, path in files.items():
        if not (name == "sslrootcert" and path == "system") and not Path(path).is_file():
            raise _refusal(name, path, "the path of a file that is there")
    no_root = roots is None and not Path("~/.postgresql/root.crt").expanduser().is_file()
    if roots == "system" or (mode in ("verify-ca", "verify-full") and no_root):
        # As libpq has it, whoever trusts the system's roots checks the host's name too.
        return {"ssl": _trust_of_system(files, rest.get("sslpassword", ""))}
    given_ssl = {"sslmode": mode} if mode else {}
    if not given_ssl and not files and not rest:
        return {}
    return {"dsn": f"postgresql://?{urlencode(given_ssl | files | rest)}"}


def _trust_of_system(files: Mapping[str, str], password: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if "sslcert" in files:
        try:
            context.load_cert_chain(files["sslcert"], files.get("sslkey"), password)
        except (ssl.SSLError, OSError) as error:
            raise _refusal("sslcert", files["sslcert"], "a certificate in PEM, with its key in sslkey") from error
    return context


def _caches(given: dict[str, str]) -> dict[str, Any]:
    off = [given.pop(name) for name in sorted(_CACHES & given.keys())]
    pooled = given.pop("pgbouncer", "false").lower() in ("true", "1", "yes")
    if not pooled and not any(value.lower() in ("0", "false") for value in off):
        return {}
    return {
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: f"winnow_{uuid4().hex}",
    }


def _seconds(given: dict[str, str], name: str, default: float | None) -> float | None:
    """libpq: whole seconds; 0 and less wait without end."""
    if name not in given:
        return default
    try:
        seconds = float(given.pop(name))
    except ValueError as error:
        raise _refusal(name, "what stands there", "a number of seconds") from error
    return seconds if 0 < seconds < 1e6 else None


def _refusal(name: str, value: str, remedy: str) -> SetupError:
    return SetupError(f"the store's address: {name}={value} cannot be used; write {remedy}")
