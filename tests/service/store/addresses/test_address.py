"""Addresses as hosted databases hand them out: understood, or refused in a line that names the parameter."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from typer.testing import CliRunner

from service.errors import SetupError
from service.keys.key_file import add_key
from service.store.addresses.address import parse_address
from service.store.cli import store_app
from service.store.database import open_database

SECRET = "hush-7f3a"


def arguments(url: str) -> dict[str, Any]:
    return dict(parse_address(url).arguments)


@pytest.mark.parametrize(
    "scheme", ["postgres", "postgresql", "postgresql+psycopg2", "postgresql+asyncpg", "postgres+psycopg", "POSTGRES"]
)
def test_every_scheme_is_the_same_address(scheme: str) -> None:
    address = parse_address(f"{scheme}://u:p@db.example.com:6543/winnow")
    assert address.url.drivername == "postgresql+asyncpg"
    where = {name: address.arguments[name] for name in ("user", "password", "host", "port", "database")}
    assert where == {"user": "u", "password": "p", "host": ["db.example.com"], "port": [6543], "database": "winnow"}
    assert address.shown == "postgresql://u:***@db.example.com:6543/winnow"


@pytest.mark.parametrize(
    ("url", "hosts", "ports"),
    [
        ("postgres://h/x", ["h"], [5432]),
        ("postgres://u:p@a:1,b:2/x", ["a", "b"], [1, 2]),
        ("postgres://u:p@a,b/x?port=6432", ["a", "b"], [6432, 6432]),
        ("postgres://u:p@[2001:db8::1]:5433/x", ["2001:db8::1"], [5433]),
        ("postgres://u:p@[::1]/x", ["::1"], [5432]),
        ("postgres://u:p@/x?host=/var/run/postgresql", ["/var/run/postgresql"], [5432]),
        ("postgres://u:p@/x?host=/cloudsql/project:region:name&port=5433", ["/cloudsql/project:region:name"], [5433]),
        ("postgres://u:p@%2Fvar%2Frun%2Fpostgresql/x", ["/var/run/postgresql"], [5432]),
        ("postgres:///x?host=a:1&host=b:2", ["a", "b"], [1, 2]),
    ],
)
def test_hosts(url: str, hosts: list[str], ports: list[int]) -> None:
    found = arguments(url)
    assert (found["host"], found["port"], found["database"]) == (hosts, ports, "x")


@pytest.mark.parametrize("password", ["p@ss", "a/b#c", "100%", "x:y", "ü", "a%40b"])
def test_passwords_encoded_and_as_they_are(password: str) -> None:
    from urllib.parse import quote, unquote

    assert arguments(f"postgres://u:{quote(password, safe='')}@h/x")["password"] == password
    assert arguments(f"postgres://u:{password}@h/x")["password"] == unquote(password)


def test_what_a_session_is_told() -> None:
    found = arguments(
        "postgres://u:p@ep-1.neon.tech/x?options=endpoint%3Dep-1&application_name=desk&connect_timeout=3"
        "&target_session_attrs=read-write&channel_binding=require&keepalives=1"
    )
    assert found["server_settings"] == {"application_name": "desk", "options": "endpoint=ep-1"}
    assert (found["timeout"], found["target_session_attrs"]) == (3.0, "read-write")
    assert "statement_cache_size" not in found
    schema = arguments("postgres://u:p@h/x?schema=winnow&options=-c%20statement_timeout%3D5s")["server_settings"]
    assert schema == {"search_path": "winnow", "options": "-c statement_timeout=5s", "application_name": "winnow"}


@pytest.mark.parametrize("query", ["pgbouncer=true&connection_limit=1", "statement_cache_size=0", "prepareThreshold=0"])
def test_behind_a_pooler_no_statement_is_cached(query: str) -> None:
    found = arguments(f"postgres://u:p@h/x?{query}")
    assert (found["statement_cache_size"], found["prepared_statement_cache_size"]) == (0, 0)
    names = {found["prepared_statement_name_func"]() for _ in range(3)}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("query", "mode"),
    [
        ("sslmode=disable", "disable"),
        ("sslmode=allow", "allow"),
        ("sslmode=prefer", "prefer"),
        ("sslmode=require", "require"),
        ("sslmode=no-verify", "require"),
        ("ssl=require", "require"),
        ("ssl=true", "require"),
        ("ssl=false", "disable"),
        ("ssl=true&sslmode=prefer", "prefer"),
    ],
)
def test_modes_of_tls_reach_the_driver(query: str, mode: str) -> None:
    assert arguments(f"postgres://u:p@h/x?{query}")["dsn"] == f"postgresql://?sslmode={mode}"


@pytest.mark.parametrize("query", ["sslmode=verify-full", "sslrootcert=system", "sslmode=verify-ca&sslrootcert=system"])
def test_without_a_root_of_its_own_the_system_s_roots_verify(
    query: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    context = arguments(f"postgres://u:p@h/x?{query}")["ssl"]
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_certificates_are_files_that_are_there(tmp_path: Path) -> None:
    root = tmp_path / "root.pem"
    with pytest.raises(SetupError, match=r"sslrootcert=.*root.pem cannot be used"):
        parse_address(f"postgres://u:{SECRET}@h/x?sslmode=verify-full&sslrootcert={root}")
    root.touch()
    found = arguments(f"postgres://u:p@h/x?sslmode=verify-ca&sslrootcert={root}")["dsn"]
    assert found.startswith("postgresql://?sslmode=verify-ca&sslrootcert=%2F")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("jdbc:postgresql://h/x?user=u&password=hush-7f3a", "one of JDBC; write postgresql://"),
        ("host=h password=hush-7f3a dbname=x", "not one such as sqlite:///"),
        ("mysql://u:hush-7f3a@h/x", "not in mysql"),
        ("postgres://u:hush-7f3a?x@h/x", "percent-encoded"),
        ("postgres://u:hu@h?hush-7f3a@h/x", "percent-encoded"),
        ("postgres://u:p:hush-7f3a/x", "its port is no number"),
        ("postgres://u:hush-7f3a@h:99999/x", "its port is no number"),
        ("postgres://u:hush-7f3a@h/x?sslmode=on-top", "sslmode=on-top cannot be used; write one of disable, allow"),
        ("postgres://u:hush-7f3a@h/x?target_session_attrs=standby", "target_session_attrs=standby"),
        ("postgres://u:hush-7f3a@h/x?connect_timeout=soon", "connect_timeout"),
        ("postgres://u:hush-7f3a@h/x?colour=red", "the parameter 'colour'"),
        ("postgres://u:hush-7f3a@h/x?client_encoding=latin1", "client_encoding=latin1"),
        ("postgres://u:hush-7f3a@h/x?gssencmode=require", "gssencmode=require"),
        ("sqlite://", "needs the path of a file"),
        ("sqlite:///:memory:", "needs the path of a file"),
        ("sqlite:////tmp/a.db?mode=ro", "takes no parameters"),
        ("", "not one such as"),
    ],
)
def test_what_cannot_be_used_is_named_and_no_password_is(url: str, message: str) -> None:
    with pytest.raises(SetupError) as error:
        parse_address(url)
    assert message in str(error.value)
    assert SECRET not in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text(max_size=80))
def test_any_text_is_an_address_or_one_line(rest: str) -> None:
    for url in (rest, f"postgres://{rest}", f"sqlite://{rest}", f"postgresql://u:{SECRET}@h/x?{rest}"):
        message = "one line"
        try:
            parse_address(url)
        except SetupError as error:
            message = str(error)
        assert SECRET not in message
        assert len(message.splitlines()) == 1


def test_files() -> None:
    assert parse_address("sqlite:////a/b%20c.db").url.database == "/a/b c.db"
    assert parse_address("sqlite+aiosqlite:///b.db").url.database == "b.db"


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?sslmode=disable",
        "?sslmode=prefer",
        "?sslmode=allow&application_name=desk",
        "?ssl=false&connect_timeout=5&target_session_attrs=read-write",
        "?pgbouncer=true&connection_limit=1",
        "?channel_binding=prefer&options=-c%20statement_timeout%3D5s",
    ],
)
async def test_a_real_server_takes_them(postgres: str, query: str) -> None:
    for scheme in ("postgres", "postgresql+psycopg2"):
        engine = await open_database(f"{scheme}://{postgres.partition('://')[2]}/postgres{query}")
        async with engine.connect() as connection:
            both = "select current_setting('application_name'), current_setting('statement_timeout')"
            name, limit = (await connection.execute(text(both))).one()
        await engine.dispose()
        assert name == ("desk" if "desk" in query else "winnow")
        assert limit == ("5s" if "timeout%3D5s" in query else "0")


async def test_a_server_without_tls_is_told_from_one_that_is_not_there(postgres: str) -> None:
    with pytest.raises(SetupError, match="rejected SSL upgrade"):
        await open_database(f"{postgres}/postgres?sslmode=require")
    with pytest.raises(SetupError, match=f'database "{SECRET[:4]}" does not exist'):
        await open_database(f"{postgres}/{SECRET[:4]}")


@pytest.mark.parametrize("query", ["", "?sslmode=disable", "?sslmode=require", "?ssl=require", "?colour=red"])
@pytest.mark.parametrize(
    "command", [["export", "out"], ["prune", "--days", "1"], ["forget", "--tenant", "a", "--user", "u"]]
)
def test_each_command_says_it_in_one_line(command: list[str], query: str) -> None:
    done = CliRunner().invoke(store_app, [*command, "--url", f"postgres://u:{SECRET}@127.0.0.1:9/winnow{query}"])
    assert done.exit_code == 2
    assert SECRET not in done.output
    assert len(done.stderr.strip().splitlines()) == 1
    assert ("colour" if "colour" in query else "127.0.0.1:9") in done.stderr


def test_the_gateway_and_the_audit_say_it_in_one_line(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    environment = os.environ | {
        "WINNOW_STORE__URL": f"postgres://u:{SECRET}@127.0.0.1:9/winnow?sslmode=require",
        "WINNOW_KEYS_FILE": str(keys),
    }
    add_key(keys, "acme", "client")
    for command in (["gateway", "--port", "0"], ["audit", "report", "latest"]):
        done = subprocess.run(
            [sys.executable, "-m", "service", *command], capture_output=True, text=True, env=environment, timeout=120
        )
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        assert SECRET not in done.stderr + done.stdout
        assert "127.0.0.1:9" in done.stderr


async def test_a_newer_store_is_named_with_what_to_do(store_url: str) -> None:
    engine = await open_database(store_url)
    async with engine.begin() as connection:
        await connection.execute(text("update alembic_version set version_num = '9999'"))
    await engine.dispose()
    with pytest.raises(SetupError, match=r"written by a newer Winnow \(its schema is 9999, this version knows 0\d+\)"):
        await open_database(store_url)


def test_files_that_cannot_be_a_store_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a database at all, but a text of more than one line\n" * 50)
    (tmp_path / "folder").mkdir()
    for path, message in (
        (tmp_path / "folder", "it is a folder; name a file in it"),
        (tmp_path / "file" / "winnow.db", "File exists"),
        (tmp_path / "file", "another program's file"),
        (Path("/proc/winnow.db"), "/proc is not writable"),
    ):
        with pytest.raises(SetupError) as error:
            asyncio.run(open_database(f"sqlite:///{path}"))
        assert message in str(error.value)
        assert "\n" not in str(error.value)
