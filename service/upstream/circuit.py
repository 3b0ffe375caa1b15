"""When an upstream is left alone: after failures in a row, for a while, until one call has got through."""

from __future__ import annotations

import time
from collections.abc import Callable


class Circuit:
    """Closed, it lets calls through and counts failures in a row. At `limit` it opens for `pause` seconds; then one
    call may try, and its first answer closes the circuit again, one failure away from opening."""

    def __init__(self, limit: int, pause: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._pause = pause
        self._clock = clock
        self._opened_at: float | None = None
        self.failures = 0

    @property
    def open(self) -> bool:
        """Whether calls are kept back, but for one trial once the pause is over."""
        return self._opened_at is not None

    def pause_left(self) -> float:
        """Seconds until a trial is due; 0 if it is, or if the circuit is closed."""
        return 0.0 if self._opened_at is None else max(0.0, self._opened_at + self._pause - self._clock())

    def succeed(self) -> None:
        """A call was answered to its end."""
        self._opened_at, self.failures = None, 0

    def trial_answered(self) -> None:
        """The trial got its first answer; how it ends is not known yet."""
        self._opened_at, self.failures = None, self._limit - 1

    def fail(self, *, trial: bool = False) -> None:
        """A call failed. One that was under way when the circuit opened does not lengthen the pause."""
        self.failures += 1
        if trial or (self._opened_at is None and self.failures >= self._limit):
            self._opened_at = self._clock()
