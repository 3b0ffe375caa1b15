"""Each store for real: a SQLite file, and a Postgres server that lives as long as the tests of this process."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def _postgres_binaries() -> Path | None:
    """Debian keeps them out of the path, a folder for each release."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), default=None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Address of a server of its own, without the name of a database."""
    binaries = _postgres_binaries()
    if binaries is None:
        pytest.skip("no Postgres is installed here: apt-get install postgresql")
    # The server refuses to run as root.
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    name = "postgres" if as_user else pwd.getpwuid(os.geteuid()).pw_name
    folder = Path(tempfile.mkdtemp(prefix="winnow-postgres-"))
    if as_user:
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        command = [*as_user, str(binaries / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd="/", timeout=60)

    try:
        run("initdb", "-D", str(folder / "data"), "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-D", str(folder / "data"), "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://{name}@127.0.0.1:{port}"
        finally:
            run("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: Any, tmp_path: Path) -> str:
    """An empty store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'winnow.db'}"
    server = request.getfixturevalue("postgres")
    name = f"t{abs(hash(request.node.nodeid)) % 10**12}"
    address = server.removeprefix("postgresql://")
    user, _, where = address.partition("@")
    host, _, port = where.partition(":")
    binaries = _postgres_binaries()
    assert binaries is not None
    command = [str(binaries / "createdb"), "-h", host, "-p", port, "-U", user, name]
    subprocess.run(command, check=True, capture_output=True, cwd="/", timeout=60)
    return f"{server}/{name}"
