"""State of a sliding window: what is left of a limit, and when more becomes free. Pure."""

from __future__ import annotations

from math import floor
from typing import NamedTuple


class Window(NamedTuple):
    """Counts of the fixed window that runs now and of the one before, which fades as the current one passes.

    `previous_seconds` is how long the previous window still counts, `current_seconds` how long the current one does.
    """

    limit: int
    seconds: float
    previous: int = 0
    previous_seconds: float = 0.0
    current: int = 0
    current_seconds: float = 0.0

    @property
    def used(self) -> float:
        """What counts now."""
        return self.previous * self.previous_seconds / self.seconds + self.current

    @property
    def remaining(self) -> int:
        """What may still be taken at once."""
        return min(self.limit, max(0, self.limit - floor(self.used)))

    @property
    def reset(self) -> float:
        """Seconds until nothing counts any more."""
        return max(self.current_seconds if self.current > 0 else self.previous_seconds if self.previous > 0 else 0.0, 0)

    def wait(self, cost: int) -> float:
        """Seconds until `cost`, at most the limit, can be taken if nobody takes anything meanwhile."""
        room = self.limit - cost
        if self.used <= room:
            return 0.0
        if self.current <= room:
            return self.previous_seconds - (room - self.current) * self.seconds / self.previous
        # Once the current window is over it becomes the one that fades.
        return self.current_seconds - self.seconds + self.seconds * (1 - room / self.current)

    def headers(self, kind: str) -> dict[str, str]:
        """OpenAI's x-ratelimit headers of this limit; `kind` is `requests` or `tokens`."""
        return {
            f"x-ratelimit-limit-{kind}": str(self.limit),
            f"x-ratelimit-remaining-{kind}": str(self.remaining),
            f"x-ratelimit-reset-{kind}": f"{self.reset:.3f}s",
        }
