"""Hashed word and character n-grams of a text: one truth for training and serving.

Words (letters with marks, digits folded to 0) give 1- and 2-grams; each word, padded with spaces, gives
character 3- to 5-grams. Every n-gram is hashed by CRC-32 into `BUCKETS` buckets; a text is the set of its
buckets, weighted by inverse document frequency and scaled to length 1 (`weigh`).

Words repeat, so what a word alone gives is remembered for the commonest of them, without whose text it was. A long
text is hashed once and each of its windows takes a slice.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1 << 16
_SIZES = (3, 4, 5)
_LONGEST = 40
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d+|[$€£%]")
_DIGITS = re.compile(r"\d+")
_MARK = crc32(b"w:")


def words(text: str) -> list[str]:
    """Lower-case words; a run of digits is `0`."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).replace("’", "'")
    return _WORD.findall(_DIGITS.sub("0", text.lower()))


class HashedWords:
    """The buckets of a run of words, from which any part of the run is taken."""

    def __init__(self, tokens: Sequence[str]) -> None:
        hashed = [_hashed(token) for token in tokens]
        self._own = [grams for _, _, grams in hashed]
        # CRC-32 goes on where it stopped: "w:left right" is "w:left", then " right".
        pairs = [crc32(right, left) & 0xFFFF for (left, _, _), (_, right, _) in itertools.pairwise(hashed)]
        self._pairs = np.array(pairs, dtype=np.uint16)

    def buckets(self, start: int = 0, end: int | None = None) -> NDArray[np.uint16]:
        """Sorted bucket numbers of the words from start up to end, each once."""
        own = self._own[start:end]
        if not own:
            return np.empty(0, dtype=np.uint16)
        every = np.concatenate([*own, self._pairs[start : start + len(own) - 1]])
        every.sort()
        first = np.empty(len(every), dtype=bool)
        first[0] = True
        np.not_equal(every[1:], every[:-1], out=first[1:])
        distinct: NDArray[np.uint16] = every[first]
        return distinct


def buckets(text: str) -> NDArray[np.int64]:
    """Sorted bucket numbers of the text's n-grams, each once; empty for a text without words."""
    return HashedWords(words(text)).buckets().astype(np.int64)


def weigh(index: NDArray[np.int64], idf: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values of those buckets: idf scaled to Euclidean length 1."""
    values = idf[index]
    norm = float(np.sqrt(np.square(values).sum()))
    return values / norm if norm > 0 else values


@lru_cache(maxsize=1 << 15)
def _hashed(token: str) -> tuple[int, bytes, NDArray[np.uint16]]:
    """CRC-32 of the marked word, the word as the right half of a pair, and the buckets it gives alone."""
    encoded = token.encode("utf-8", "replace")
    marked = crc32(encoded, _MARK)
    padded = f" {token[:_LONGEST]} "
    grams = [padded[start : start + size] for size in _SIZES for start in range(len(padded) - size + 1)]
    crcs = [marked, *(crc32(gram.encode("utf-8", "replace")) for gram in grams)]
    return marked, b" " + encoded, np.array([crc & 0xFFFF for crc in crcs], dtype=np.uint16)
