"""Contestants without a server: a child process that answers each JSON line with a JSON line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadtest.bench.processes import BenchError, Server


class LineProcess:
    """A running child; its standard error goes to `log`."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self._name, self._log = name, log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )

    @property
    def server(self) -> Server:
        """Whose CPU time counts."""
        return Server(self._name, "", self._process.pid)

    def ask(self, question: Any) -> Any:
        """Its answer. Raises BenchError when it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-8:])
            raise BenchError(f"{self._name} ended; its log ({self._log}) ends with:\n{tail}")
        return json.loads(answer)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def answering(name: str, command: Sequence[str], log: Path) -> Iterator[LineProcess]:
    """The child while the block runs."""
    process = LineProcess(name, command, log)
    try:
        yield process
    finally:
        process.stop()
