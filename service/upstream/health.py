"""Health of the upstreams and the store: from their traffic, or from a probe if there is none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from typing import Protocol

from service.upstream.guard import Guard
from service.upstream.readiness import Conditions

# How long the outcome of a probe holds by itself.
_FRESH_SECONDS = 1.0


class Checked(Protocol):
    """Something that can say whether it answers."""

    async def healthy(self) -> bool:
        """Whether it answers: a small piece of its real work, within a time limit."""


class Probe:
    """Asks `check` for everybody who wants to know at the moment, and remembers the outcome for a second."""

    def __init__(self, check: Callable[[], Awaitable[bool]], clock: Callable[[], float] = time.monotonic) -> None:
        self._check = check
        self._clock = clock
        self._task: asyncio.Task[bool] | None = None
        self._at = float("-inf")

    async def answers(self) -> bool:
        """Whether it answers."""
        stale = self._task is None or (self._task.done() and self._clock() - self._at > _FRESH_SECONDS)
        if stale:
            # In no request's context: its outcome is everybody's.
            self._task = asyncio.create_task(self._run(), context=Context())
        assert self._task is not None
        # Whoever asked first and leaves must not take the outcome from the others.
        return await asyncio.shield(self._task)

    async def _run(self) -> bool:
        try:
            return await self._check()
        finally:
            self._at = self._clock()


class Health:
    """What works. `guards` have the traffic of upstreams of these names; those without traffic are probed. `store` is
    None if nothing is kept, and `tasks_down` names the background tasks that do not run."""

    def __init__(
        self,
        upstreams: Mapping[str, Checked],
        guards: Mapping[str, Guard],
        store: Callable[[], Awaitable[bool]] | None,
        tasks_down: Callable[[], frozenset[str]],
    ) -> None:
        self._probes = {name: Probe(upstream.healthy) for name, upstream in upstreams.items()}
        self._guards = guards
        self._store = None if store is None else Probe(store)
        self._tasks_down = tasks_down

    async def facts(self) -> Conditions:
        """What works now."""
        probing = [self._answers(name) for name in self._probes]
        store, *answers = await asyncio.gather(self._store_answers(), *probing)
        upstreams = {name: bool(answer) for name, answer in zip(self._probes, answers, strict=True)}
        return Conditions(upstreams, store, self._tasks_down())

    def circuits(self) -> dict[str, str]:
        """Name -> `closed` or `open`."""
        return {name: "open" if guard.circuit.open else "closed" for name, guard in self._guards.items()}

    async def _store_answers(self) -> bool | None:
        return None if self._store is None else await self._store.answers()

    async def _answers(self, name: str) -> bool:
        if (guard := self._guards.get(name)) is not None:
            if guard.circuit.pause_left() > 0:
                return False
            if guard.circuit.failures == 0 and guard.clock() - guard.heard_at < guard.settings.idle_seconds:
                return True
        return await self._probes[name].answers()
