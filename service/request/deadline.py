"""One deadline travels with a request, in the event loop's clock."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """A point in time `budget_ms` after it was made."""

    def __init__(self, budget_ms: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.at = clock() + budget_ms / 1000

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - self._clock())

    def remaining_ms(self) -> int:
        """Whole milliseconds left."""
        return int(self.remaining() * 1000)

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return self.remaining() == 0.0
