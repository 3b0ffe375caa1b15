"""Hashed word and character n-grams of a text: one truth for training and serving.

Words (letters with marks, digits folded to 0) give 1- and 2-grams; each word, padded with spaces, gives
character 3- to 5-grams. Every n-gram is hashed by CRC-32 into `BUCKETS` buckets; a text is the set of its
buckets, weighted by inverse document frequency and scaled to length 1 (`weigh`).
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1 << 16
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d+|[$€£%]")
_DIGITS = re.compile(r"\d+")


def words(text: str) -> list[str]:
    """Lower-case words; a run of digits is `0`."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    return _WORD.findall(_DIGITS.sub("0", text))


def ngrams(text: str) -> set[str]:
    """Word 1-2-grams (marked `w:`) and character 3-5-grams within padded words."""
    tokens = words(text)
    found = {f"w:{token}" for token in tokens}
    found.update(f"w:{left} {right}" for left, right in itertools.pairwise(tokens))
    for token in tokens:
        padded = f" {token[:40]} "
        for size in (3, 4, 5):
            found.update(padded[start : start + size] for start in range(len(padded) - size + 1))
    return found


def buckets(text: str) -> NDArray[np.int64]:
    """Sorted bucket numbers of the text's n-grams, each once; empty for a text without words."""
    return np.unique(np.fromiter((crc32(gram.encode()) % BUCKETS for gram in ngrams(text)), dtype=np.int64))


def weigh(index: NDArray[np.int64], idf: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values of those buckets: idf scaled to Euclidean length 1."""
    values = idf[index]
    norm = float(np.sqrt(np.square(values).sum()))
    return values / norm if norm > 0 else values
