"""The same text twice: word for word, or nearly (MinHash over character shingles; Broder, 1997)."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_model.labels import Pair, as_completion

# Characters, not words: Chinese has no spaces to cut at.
_SHINGLE = 5
# With 10 bands of 4 hashes, two texts that share 0.8 of their shingles meet in a band 99.5 times in 100.
_BANDS, _ROWS = 10, 4

Shingles = NDArray[np.uint64]


def normalised(text: str) -> str:
    """Text without the differences that nobody sees: Unicode forms, case, runs of white space."""
    return " ".join(unicodedata.normalize("NFKC", text).split()).casefold()


@dataclass(frozen=True)
class Texts:
    """A pair's texts, normalised once.

    Many prompts share a long opening system message, such as a company's policy, so `system` is kept apart from
    the `rest`: prompts are near-duplicates when the rest is nearly the same, and never under different policies.
    """

    system: str
    rest: str
    chosen: str
    rejected: str

    @property
    def prompt(self) -> tuple[str, str]:
        """Equal for pairs over the same prompt."""
        return self.system, self.rest

    @property
    def replies(self) -> tuple[str, str]:
        """Both replies, in an order that does not depend on which of them won."""
        first, second = sorted((self.chosen, self.rejected))
        return first, second

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Equal for pairs over the same prompt and the same two replies, whichever of them won."""
        return *self.prompt, *self.replies


def texts(pair: Pair) -> Texts:
    """The normalised texts of a pair."""
    cut = 1 if pair.prompt[0].role in ("system", "developer") and len(pair.prompt) > 1 else 0
    rest = "\n".join(f"{message.role}: {message.text()}" for message in pair.prompt[cut:])
    return Texts(
        normalised(pair.prompt[0].text()) if cut else "",
        normalised(rest),
        normalised(as_completion(pair.chosen).text()),
        normalised(as_completion(pair.rejected).text()),
    )


def shingles(text: str) -> Shingles:
    """Hashes of the runs of 5 characters, in order; a shorter text is one run."""
    codes = np.frombuffer(text.ljust(_SHINGLE).encode("utf-32-le", "replace"), dtype=np.uint32).astype(np.uint64)
    hashes = np.zeros(len(codes) - _SHINGLE + 1, dtype=np.uint64)
    for offset in range(_SHINGLE):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[offset : offset + len(hashes)]
    return hashes ^ (hashes >> np.uint64(29))


def similarity(left: str, right: str) -> float:
    """Share of all distinct shingles that both texts have (Jaccard)."""
    mine, other = np.unique(shingles(left)), np.unique(shingles(right))
    both = len(np.intersect1d(mine, other, assume_unique=True))
    return both / (len(mine) + len(other) - both)


def near_duplicates(strings: Sequence[str], blocks: Sequence[Any], least: float) -> Iterator[tuple[int, int]]:
    """Positions of two texts of one block whose similarity is `least` or more, each once.

    Among many texts alike, each is compared with the first of them, not with all: the work stays linear.
    """
    generator = np.random.default_rng(0)
    factors = generator.integers(1, 2**63, size=_BANDS * _ROWS, dtype=np.uint64) | np.uint64(1)
    tables: dict[tuple[int, Any, bytes], int] = {}
    seen: set[tuple[int, int]] = set()
    for position, text in enumerate(strings):
        # Multiply-shift; the upper bits are the well-mixed ones.
        minima = ((shingles(text) * factors[:, None]) >> np.uint64(16)).min(axis=1)
        for band in range(_BANDS):
            key = (band, blocks[position], minima[band * _ROWS : (band + 1) * _ROWS].tobytes())
            first = tables.setdefault(key, position)
            if first == position or (first, position) in seen:
                continue
            seen.add((first, position))
            if similarity(strings[first], text) >= least:
                yield first, position


def clusters(count: int, links: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Groups of two or more of `count` things that links connect, each sorted."""
    root = list(range(count))

    def find(item: int) -> int:
        while root[item] != item:
            root[item] = root[root[item]]
            item = root[item]
        return item

    for left, right in links:
        root[find(right)] = find(left)
    members: dict[int, list[int]] = defaultdict(list)
    for item in range(count):
        members[find(item)].append(item)
    return [group for group in members.values() if len(group) > 1]
