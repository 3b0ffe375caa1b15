"""How long a forward pass takes, learned from the passes before it."""

from __future__ import annotations

import math

# A pass counts this much less with every one after it, so that some twenty count: a machine's speed changes.
_FORGETTING = 0.95
# Deviations above the fit: of passes that are estimated, about one in fifty takes longer.
_DEVIATIONS = 2.0


class PassTime:
    """Seconds of a pass as an affine function of its new tokens: exponentially weighted least squares."""

    def __init__(self) -> None:
        self._weight = self._tokens = self._seconds = self._squares = self._products = 0.0
        self._errors = self._error_weight = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from a pass."""
        if self._weight:
            self._errors = _FORGETTING * self._errors + (seconds - self._fit(tokens)) ** 2
            self._error_weight = _FORGETTING * self._error_weight + 1
        self._weight = _FORGETTING * self._weight + 1
        self._tokens = _FORGETTING * self._tokens + tokens
        self._seconds = _FORGETTING * self._seconds + seconds
        self._squares = _FORGETTING * self._squares + tokens * tokens
        self._products = _FORGETTING * self._products + tokens * seconds

    def at_most(self, tokens: int) -> float:
        """Seconds that a pass over `tokens` is unlikely to exceed; 0 while nothing is known."""
        if not self._weight:
            return 0.0
        deviation = math.sqrt(self._errors / self._error_weight) if self._error_weight else 0.0
        return self._fit(tokens) + _DEVIATIONS * deviation

    def _fit(self, tokens: int) -> float:
        spread = self._weight * self._squares - self._tokens**2
        # Passes of one size tell nothing of a fixed cost; neither do those of which the larger were the faster.
        if spread > 1e-9 * self._squares * self._weight:
            slope = (self._weight * self._products - self._tokens * self._seconds) / spread
            fixed = (self._seconds - slope * self._tokens) / self._weight
            if slope >= 0 and fixed >= 0:
                return fixed + slope * tokens
        return tokens * self._seconds / max(1.0, self._tokens)
