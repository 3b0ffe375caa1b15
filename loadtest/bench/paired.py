"""Ratios of paired measurements, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_DRAWS = 10_000


@dataclass(frozen=True)
class Ratio:
    """Median over rounds of one contestant's figure over another's in the same round, and a 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Ratio:
    """The percentile bootstrap over rounds (Efron, 1979). Raises ValueError for lists of two lengths or none."""
    each = np.asarray(ours, dtype=float) / np.asarray(theirs, dtype=float)
    if len(ours) != len(theirs) or not len(each):
        raise ValueError(f"{len(ours)} and {len(theirs)} rounds are no pairs")
    draws = np.random.default_rng(seed).choice(each, size=(_DRAWS, len(each)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return Ratio(float(np.median(each)), float(low), float(high), len(each))
