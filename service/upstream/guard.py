"""What surrounds every call of one upstream: its circuit, its failures in the metrics, when it was last heard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import ceil
from types import TracebackType

from service.errors import ApiError, Failure, ScorerLate, UpstreamError
from service.settings import UpstreamSettings
from service.telemetry.metrics import Metrics
from service.upstream.circuit import Circuit

# The upstream works: it has too much to do, serves another model, or objects to the request.
_WORKING: frozenset[Failure] = frozenset({"overloaded", "moved", "refused"})


class Call:
    """One call under way: `async with guard.call() as call:` surrounds it, and the block says when it `heard`."""

    def __init__(self, guard: Guard, stall_seconds: float, proves: bool) -> None:
        self._guard = guard
        self._stall_seconds = stall_seconds
        self._proves = proves
        self.trial = False
        self.heard_at = 0.0

    @property
    def stalled(self) -> bool:
        """Whether nothing was heard for so long that the upstream is taken for frozen."""
        return self._guard.clock() - self.heard_at >= self._stall_seconds

    def heard(self) -> None:
        """The upstream sent something."""
        self.heard_at = self._guard.heard_at = self._guard.clock()
        if self.trial:
            self.trial = False
            self._guard.trial_answered()

    async def __aenter__(self) -> Call:
        if self._guard.circuit.open:
            self.trial = await self._guard.admit()
        self.heard_at = self._guard.clock()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, UpstreamError):
            self._guard.failed(self, error)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._guard.cancelled(self)
        elif self._proves and (error is None or isinstance(error, ApiError)):
            self.heard()
            self._guard.circuit.succeed()
        self._guard.ended(self)


class Guard:
    """The state of one upstream, from its traffic. `unavailable` is raised while its circuit is open."""

    def __init__(
        self,
        name: str,
        unavailable: type[UpstreamError],
        settings: UpstreamSettings | None = None,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.settings = settings or UpstreamSettings()
        self.circuit = Circuit(self.settings.failures, self.settings.pause_seconds, clock)
        self.clock = clock
        self.heard_at = float("-inf")
        self._unavailable = unavailable
        self._metrics = metrics
        if metrics is not None:
            metrics.upstream.circuit.labels(name).set_function(lambda: self.circuit.open)
        self._code: str | None = None
        self._trial: asyncio.Future[None] | None = None

    def call(self, stall_seconds: float | None = None, *, proves: bool = True) -> Call:
        """Surrounds one call. Raises at once while the circuit is open; who comes during its trial waits for that.

        A call that is cancelled, or late, counts as failed if nothing was heard for `stall_seconds`. A call that
        `proves` nothing, because a frozen engine would answer it too, can fail but not succeed.
        """
        return Call(self, self.settings.stall_seconds if stall_seconds is None else stall_seconds, proves)

    def trial_answered(self) -> None:
        """Let the calls through that wait for the trial."""
        self.circuit.trial_answered()
        self._settle()

    async def admit(self) -> bool:
        """Whether a call that comes now is the trial of an open circuit; raises if it is to be kept back."""
        while self.circuit.open:
            if (pause := self.circuit.pause_left()) > 0:
                raise self._refusal(pause)
            if self._trial is None:
                self._trial = asyncio.get_running_loop().create_future()
                return True
            done, _ = await asyncio.wait({self._trial}, timeout=self.settings.probe_seconds)
            if not done:
                raise self._refusal(1)
        return False

    def _refusal(self, pause: float) -> UpstreamError:
        self.count("circuit_open")
        noun = self.name.partition(":")[0]
        return self._unavailable(
            f"the {noun} has failed {self.circuit.failures} times in a row; it is tried again in {ceil(pause)} s",
            kind="circuit_open",
            code=self._code,
            retry_after=pause,
        )

    def failed(self, call: Call, error: UpstreamError) -> None:
        """A call failed."""
        self.count(error.kind)
        if error.kind in _WORKING:
            call.heard()
        elif not isinstance(error, ScorerLate) or call.stalled:
            self._code = error.code
            self.circuit.fail(trial=call.trial)

    def cancelled(self, call: Call) -> None:
        """A call was cancelled, which says nothing unless the upstream was silent for long."""
        if call.stalled:
            self.count("timeout")
            self.circuit.fail(trial=call.trial)

    def ended(self, call: Call) -> None:
        """A call is over, however it ended."""
        if call.trial:
            self._settle()

    def _settle(self) -> None:
        if self._trial is not None and not self._trial.done():
            self._trial.set_result(None)
        self._trial = None

    def count(self, kind: Failure) -> None:
        """Count a failure, whatever follows from it."""
        if self._metrics is not None:
            self._metrics.upstream.errors.labels(self.name, kind).inc()
