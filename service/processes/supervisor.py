"""Runs the processes of one machine: start, wait for health, restart with backoff, drain in order.

Every child leads a process group of its own, so that vLLM's workers go with it, and asks the kernel to be
terminated when the supervisor dies: no orphan survives a kill -9.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from service.errors import SetupError

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.5
_STABLE_SECONDS = 60.0


@dataclass(frozen=True)
class Program:
    """What to run: `health` is the URL that answers 200 once the process serves."""

    name: str
    arguments: Sequence[str]
    health: str
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    drain_seconds: float = 15.0


def backoff_seconds(failures: int) -> float:
    """Wait before restart number `failures` (1, 2, ...): 1, 2, 4, ... at most 30 s."""
    return float(min(30, 2 ** max(0, failures - 1)))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """One supervised process: at most one incarnation at a time."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.process: asyncio.subprocess.Process | None = None
        self.failures = 0
        self.started_at = 0.0

    async def start(self) -> None:
        """Start the process; its output is appended to its log."""
        self.program.log.parent.mkdir(parents=True, exist_ok=True)
        with self.program.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.program.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self.program.environment,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self.started_at = time.monotonic()

    async def wait(self) -> int:
        """Exit code of the current incarnation; whatever it left in its group is killed."""
        assert self.process is not None
        code = await self.process.wait()
        self._signal(signal.SIGKILL)
        return code

    async def stop(self) -> None:
        """Ask the group to end, and end it after `drain_seconds`."""
        if self.process is None or self.process.returncode is not None:
            return
        # Only the leader is asked: vLLM shuts its own workers down, in its own order.
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(self.program.drain_seconds):
                await self.process.wait()
        except TimeoutError:
            pass
        self._signal(signal.SIGKILL)
        await self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Supervisor:
    """Keeps its children running until it is asked to stop; reports through `say(name, what happened)`."""

    def __init__(self, programs: Sequence[Program], say: Callable[[str, str], None]) -> None:
        self.children = [Child(program) for program in programs]
        self.stopping = asyncio.Event()
        self._say = say

    async def start(self) -> None:
        """Start all and return once each answers its health URL; SetupError when one ends before it does."""
        self._keepers = [asyncio.create_task(self._keep(child)) for child in self.children]
        async with asyncio.TaskGroup() as group:
            for child in self.children:
                group.create_task(self._ready(child))

    async def watch(self) -> None:
        """Return when a stop was asked for."""
        await self.stopping.wait()

    async def stop(self) -> None:
        """Drain in reverse order of start: the gateway first, so that it can finish what it has."""
        self.stopping.set()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for child in reversed(self.children):
            await child.stop()

    async def _keep(self, child: Child) -> None:
        while not self.stopping.is_set():
            await child.start()
            code = await child.wait()
            if time.monotonic() - child.started_at > _STABLE_SECONDS:
                child.failures = 0
            child.failures += 1
            pause = backoff_seconds(child.failures)
            self._say(child.program.name, f"ended with code {code}; restarting in {pause:.0f} s")
            await asyncio.sleep(pause)

    async def _ready(self, child: Child) -> None:
        began = time.monotonic()
        async with httpx.AsyncClient(timeout=2) as client:
            while not await _healthy(client, child.program.health):
                if self.stopping.is_set():
                    return
                if child.failures:
                    raise SetupError(_start_failure(child.program))
                await asyncio.sleep(_POLL_SECONDS)
        self._say(child.program.name, f"ready after {time.monotonic() - began:.0f} s")


def _start_failure(program: Program) -> str:
    tail = program.log.read_text(errors="replace").splitlines()[-8:]
    return "\n".join([f"{program.name} did not start; its log ({program.log}) ends with:", *tail])


async def _healthy(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.TransportError:
        return False
