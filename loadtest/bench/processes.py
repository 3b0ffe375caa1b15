"""Servers under measurement: started, waited for, their CPU time read, and stopped with all that they started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.errors import LoadTestError

_TICKS = os.sysconf("SC_CLK_TCK")
_READY_SECONDS = 240.0


class BenchError(LoadTestError):
    """A measurement cannot be made, and why."""


@dataclass(frozen=True)
class Server:
    """A running server: where it answers, and the process that leads its group."""

    name: str
    url: str
    pid: int

    def cpu_seconds(self) -> float:
        """User and system time of it and of all that it started, as far as they live."""
        return sum(_cpu_seconds(pid) for pid in _tree(self.pid))


@contextmanager
def served(
    name: str,
    command: Sequence[str],
    url: str,
    health: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    cores: set[int] | None = None,
) -> Iterator[Server]:
    """`command` while the block runs, from when `health` answers 200, on `cores` where they are named.

    Raises BenchError when it never does.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            preexec_fn=None if cores is None else lambda: os.sched_setaffinity(0, cores),
        )
    try:
        _wait(name, process, url + health, log)
        yield Server(name, url, process.pid)
    finally:
        _stop(process)


def post(url: str, body: Any, key: str | None = None) -> Any:
    """A JSON body's JSON answer. Raises BenchError for any other."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=300
        ) as got:
            return json.loads(got.read())
    except urllib.error.HTTPError as error:
        raise BenchError(f"{url} answered {error.code}: {error.read()[:300]!r}") from error
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        raise BenchError(f"{url} did not answer: {error}") from error


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(name: str, process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    until = time.monotonic() + _READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(health, timeout=2) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            pass
        time.sleep(0.3)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-8:])
    raise BenchError(f"{name} did not start; its log ({log}) ends with:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _tree(root: int) -> list[int]:
    """The process and its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS
