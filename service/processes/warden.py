"""Ends what a killed supervisor leaves behind: `python -m service.processes.warden`.

The supervisor tells it the process groups that it starts, over a pipe. The pipe closes when the supervisor dies,
however it dies; the kernel then terminates the leader of each group, and what is left of a group after its drain time
is killed here, workers of vLLM that nobody asked to end included.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

_POLL_SECONDS = 0.2
# A container whose first process reaps nobody keeps dead groups for ever.
_REAP_SECONDS = 5.0


class Warden:
    """The supervisor's end of the pipe."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            # The supervisor's own would be held open beyond its end.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def enlist(self, drain_seconds: float) -> None:
        """Called in a forked child before it becomes its program: no moment is left in which nobody knows of it.

        Its group is ended if the supervisor dies, after `drain_seconds` in which it may end by itself.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            os.write(self._process.stdin.fileno(), f"watch {os.getpid()} {drain_seconds}\n".encode())

    def forget(self, group: int) -> None:
        """The group has ended."""
        self._tell(f"forget {group}")

    def close(self) -> None:
        """No group is left, or this process ends: the warden ends with it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        # Without a warden the kernel's signal to the leaders is left.
        with contextlib.suppress(BrokenPipeError):
            print(line, file=self._process.stdin, flush=True)


def main(lines: Iterable[str]) -> None:
    """Follow the supervisor until the pipe closes, then end what it left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    drains: dict[int, float] = {}
    for line in lines:
        word, group, *seconds = line.split()
        if word == "watch":
            drains[int(group)] = float(seconds[0])
        else:
            drains.pop(int(group), None)
    began, last = time.monotonic(), max(drains.values(), default=0.0) + _REAP_SECONDS
    while drains and (passed := time.monotonic() - began) < last:
        # Signal 0 only asks whether anybody is there.
        drains = {
            group: seconds
            for group, seconds in drains.items()
            if _signal(group, signal.SIGKILL if passed > seconds else 0)
        }
        time.sleep(_POLL_SECONDS)


def _signal(group: int, number: int) -> bool:
    """Whether anybody was in the group."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main(sys.stdin)
