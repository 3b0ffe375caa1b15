"""What the student is, and how it learns; read without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DistilRecipe:
    """What the student is, and how it learns."""

    layers: int = 3
    vocabulary: int = 16_000
    rank: int = 128
    epochs: int = 3
    batch: int = 32
    learning_rate: float = 2e-4
    seed: int = 0
