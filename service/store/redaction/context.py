"""The words before a number, which say what it is where its digits do not."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import re2

from service.store.redaction.folding import MASK

_REACH = 32


def follows(text: str, position: int, words: str) -> bool:
    """Whether one of the words stands shortly before `position`, with nothing found in between."""
    before = text[max(0, position - _REACH) : position].rpartition(MASK)[2]
    return _pattern(words).search(before) is not None


@lru_cache(64)
def _pattern(words: str) -> Any:
    return re2.compile(words)
