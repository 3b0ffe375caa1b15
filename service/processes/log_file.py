"""A process's log: a file that the process writes to by itself, kept under a bound."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import BinaryIO

_LIMIT_BYTES = 10_000_000
_TAIL_BYTES = 20_000
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


class LogFile:
    """Appended to by one process at a time; what is over `limit` bytes moves to a second file, `NAME.log.1`."""

    def __init__(self, path: Path, limit: int = _LIMIT_BYTES) -> None:
        self.path = path
        self._limit = limit
        self._began = 0

    def open(self) -> BinaryIO:
        """For a process that starts now; the tail begins here."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.trim()
        stream = self.path.open("ab")
        self._began = stream.tell()
        return stream

    def trim(self) -> None:
        """Move what has gathered aside if it is too much.

        The process keeps its descriptor, which appends: after the truncation it writes on from the beginning. A line
        written in between is lost.
        """
        try:
            if self.path.stat().st_size <= self._limit:
                return
        except FileNotFoundError:
            return
        shutil.copyfile(self.path, self.path.with_name(f"{self.path.name}.1"))
        with self.path.open("r+b") as stream:
            stream.truncate(0)
        self._began = 0

    def tail(self, lines: int) -> list[str]:
        """The last lines of the process that writes now, or wrote last, without colours and control characters."""
        try:
            with self.path.open("rb") as stream:
                size = stream.seek(0, 2)
                stream.seek(max(min(self._began, size), size - _TAIL_BYTES))
                text = stream.read().decode(errors="replace")
        except FileNotFoundError:
            return []
        # A progress bar overwrites its line.
        shown = (_ESCAPES.sub("", line.rsplit("\r", 1)[-1]).rstrip() for line in text.replace("\r\n", "\n").split("\n"))
        return [line for line in shown if line][-lines:]
