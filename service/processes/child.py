"""One supervised process: started in a process group of its own, stopped with all that it started."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from service.processes.log_file import LogFile
from service.processes.warden import Warden

_PR_SET_PDEATHSIG = 1
# What a process that was told twice may still take.
_LAST_SECONDS = 5.0


@dataclass(frozen=True)
class Program:
    """What to run: `health` is the URL that answers 200 once the process serves."""

    name: str
    arguments: Sequence[str]
    health: str
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    drain_seconds: float = 15.0


class Child:
    """At most one incarnation of a program at a time."""

    def __init__(self, program: Program, warden: Warden) -> None:
        self.program = program
        self.log = LogFile(program.log)
        self.failures = 0
        # Whether it ever was.
        self.ready = False
        self.exit_code: int | None = None
        self.started_at = 0.0
        self._warden = warden
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the process; its output is appended to its log."""
        with self.log.open() as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.program.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self.program.environment,
                start_new_session=True,
                preexec_fn=self._join,
            )
        self.exit_code = None
        self.started_at = time.monotonic()

    async def wait(self) -> int:
        """Exit code of the current incarnation; whatever it left in its group is killed."""
        assert self._process is not None
        self.exit_code = await self._process.wait()
        self._kill()
        return self.exit_code

    async def stop(self, at_once: asyncio.Event) -> None:
        """Ask it to end, ask again when `at_once` is set, and end its group after `drain_seconds`."""
        if self._process is None or self.exit_code is not None:
            return
        self._terminate()
        ended = asyncio.create_task(self._process.wait())
        hurry = asyncio.create_task(at_once.wait())
        await asyncio.wait({ended, hurry}, timeout=self.program.drain_seconds, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done() and at_once.is_set():
            self._terminate()
            await asyncio.wait({ended}, timeout=_LAST_SECONDS)
        hurry.cancel()
        self._kill()
        self.exit_code = await ended

    def _join(self) -> None:
        """Runs in the new process before the program does: it ends with the supervisor."""
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        self._warden.enlist(self.program.drain_seconds)

    def _terminate(self) -> None:
        """Only the leader is asked: vLLM shuts its own workers down, in its own order."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def _kill(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._warden.forget(self._process.pid)


def describe_exit(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (", as happens when memory runs out" if name == "SIGKILL" else "")
