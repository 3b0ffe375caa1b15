"""Runs the processes of one machine: start, wait for health, restart with exponential backoff, drain in order.

Every child leads a process group of its own, so that vLLM's workers go with it. No orphan survives, not even a kill -9
of the supervisor: the kernel then terminates the children, and the warden kills what they left (warden.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import httpx

from service.errors import SetupError
from service.processes.child import Child, Program, describe_exit
from service.processes.warden import Warden

_POLL_SECONDS = 0.5
_STABLE_SECONDS = 60.0
_TRIM_SECONDS = 5.0
_START_LINES = 12
_CRASH_LINES = 5


def backoff_seconds(failures: int) -> float:
    """Exponential backoff before restart number `failures` (1, 2, ...): 1, 2, 4, ... at most 30 s."""
    return float(min(30, 2 ** max(0, failures - 1)))


class Supervisor:
    """Keeps its children running until it is asked to stop; reports through `say(name, what happened)`."""

    def __init__(self, programs: Sequence[Program], say: Callable[[str, str], None]) -> None:
        self._warden = Warden()
        self.children = [Child(program, self._warden) for program in programs]
        self.stopping = asyncio.Event()
        # Asked a second time: requests in flight are not waited for.
        self.at_once = asyncio.Event()
        self._say = say
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start all and return once each answers its health URL; SetupError when one ends before it does."""
        self._tasks = [asyncio.create_task(self._keep(child)) for child in self.children]
        self._tasks.append(asyncio.create_task(self._trim_logs()))
        async with asyncio.TaskGroup() as group:
            for child in self.children:
                group.create_task(self._first_ready(child))

    async def watch(self) -> None:
        """Return when a stop was asked for."""
        await self.stopping.wait()

    async def stop(self) -> None:
        """Drain the last child first, so that a gateway finishes what it has while its upstreams still run."""
        self.stopping.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        *upstreams, gateway = self.children
        await gateway.stop(self.at_once)
        await asyncio.gather(*(child.stop(self.at_once) for child in upstreams))
        self._warden.close()

    async def _keep(self, child: Child) -> None:
        while not self.stopping.is_set():
            await child.start()
            announcing = asyncio.create_task(self._announce(child)) if child.ready else None
            try:
                code = await child.wait()
            finally:
                if announcing is not None:
                    announcing.cancel()
            if time.monotonic() - child.started_at > _STABLE_SECONDS:
                child.failures = 0
            child.failures += 1
            if not child.ready:
                return  # `_first_ready` tells why
            pause = backoff_seconds(child.failures)
            again = f" ({child.failures} times in a row)" if child.failures > 1 else ""
            tail = "".join(f"\n  | {line}" for line in child.log.tail(_CRASH_LINES))
            self._say(child.program.name, f"{describe_exit(code)}{again}; restarting in {pause:.0f} s{tail}")
            await asyncio.sleep(pause)

    async def _first_ready(self, child: Child) -> None:
        await self._healthy(child)
        if child.failures:
            raise SetupError(_start_failure(child))
        if not self.stopping.is_set():
            child.ready = True
            self._say(child.program.name, f"ready after {time.monotonic() - child.started_at:.0f} s")

    async def _announce(self, child: Child) -> None:
        await self._healthy(child)
        self._say(child.program.name, f"ready again after {time.monotonic() - child.started_at:.0f} s")

    async def _healthy(self, child: Child) -> None:
        """Return once it is, when it ended before it ever was, or when all stop."""
        async with httpx.AsyncClient(timeout=2) as client:
            while not (self.stopping.is_set() or (child.failures and not child.ready)):
                try:
                    if (await client.get(child.program.health)).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(_POLL_SECONDS)

    async def _trim_logs(self) -> None:
        while True:
            await asyncio.sleep(_TRIM_SECONDS)
            for child in self.children:
                await asyncio.to_thread(child.log.trim)


def _start_failure(child: Child) -> str:
    program, code = child.program, child.exit_code
    ended = "" if code is None else f" ({describe_exit(code)})"
    lines = [f"{program.name} did not start{ended}; its log ({program.log}) ends with:"]
    return "\n".join([*lines, *(f"  | {line}" for line in child.log.tail(_START_LINES))])
