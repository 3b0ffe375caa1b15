"""Sliding-window counters in this process's memory, by the algorithm of the library `limits`.

`limits` has them too, behind a coroutine, an expiry table and two keys for each operation: that was a fifth of what the
gateway adds to a request. Here an operation is a look into a dictionary, with no await in which another comes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import floor

from service.admission.window import Window


@dataclass(slots=True)
class _Counts:
    """Of one key: the number of the window that runs, and what was taken in it and in the one before."""

    number: int
    current: int = 0
    previous: int = 0


class Counters:
    """What was taken by key, in windows of `seconds`; one entry a key, for good."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._seconds = seconds
        self._clock = clock
        self._counts: dict[str, _Counts] = {}

    def take(self, key: str, limit: int, cost: int) -> tuple[bool, Window]:
        """Take `cost` if that much is left; and how the window stands afterwards."""
        window, counts = self._look(key, limit)
        if floor(window.used) + cost > limit:
            return False, window
        counts.current += cost
        return True, self._look(key, limit)[0]

    def add(self, key: str, amount: int) -> None:
        """Count `amount` more, or less if it is negative, whatever is left."""
        counts = self._look(key, 0)[1]
        # What is given back may have been taken in a window that is over.
        counts.current = max(0, counts.current + amount)

    def window(self, key: str, limit: int) -> Window:
        """How the window stands."""
        return self._look(key, limit)[0]

    def _look(self, key: str, limit: int) -> tuple[Window, _Counts]:
        number, passed = divmod(self._clock(), self._seconds)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = _Counts(int(number))
        elif number != counts.number:
            counts.previous = counts.current if number == counts.number + 1 else 0
            counts.number, counts.current = int(number), 0
        left = self._seconds - passed
        return Window(limit, self._seconds, counts.previous, left, counts.current, left + self._seconds), counts
