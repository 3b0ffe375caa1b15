"""Windows of a long text: runs of whole sentences, short enough that one question in them is not diluted.

The classifier learned single questions, so it reads a long text as overlapping windows of at most `WINDOW`
characters and the most high-stakes window decides. Windows begin and end between sentences, lines or tags of a
markup paste where they can; a longer run without any is cut between words, and within a word only if there is no
space at all. Neighbours overlap by about half, so a question of up to half a window lies whole in one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

WINDOW = 120

_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9]*|/?>")
_BREAK = re.compile(r"[\r\n\u2028\u2029]+|(?<=[.!?;…])[\"')\]]*\s+|(?<=[。！？；])")


def windows(text: str, size: int = WINDOW) -> list[str]:
    """The text itself if it is short, else its windows in reading order; nothing of it is left out."""
    if len(text) <= size:
        return [text] if text.strip() else []
    parts = segments(text, size)
    return [" ".join(parts[start:end]) for start, end in runs(parts, size)]


def segments(text: str, size: int = WINDOW) -> list[str]:
    """The sentences, lines and tags of a text, none of them longer than a window."""
    return [piece for segment in _segments(text) for piece in _cut(segment, size)]


def _segments(text: str) -> Iterator[str]:
    if "<" in text:
        text = _TAG.sub("\n", text)
    for segment in _BREAK.split(text):
        if stripped := segment.strip():
            yield stripped


def _cut(segment: str, size: int) -> Iterator[str]:
    """The segment, or pieces of half a window if it is longer than one."""
    while len(segment) > size:
        end = segment.rfind(" ", 1, size // 2) + 1 or size // 2
        yield segment[:end].strip()
        segment = segment[end:]
    yield segment


def runs(parts: list[str], size: int = WINDOW) -> Iterator[tuple[int, int]]:
    """First and last (exclusive) segment of each window; each begins near the middle of the one before."""
    start = 0
    while start < len(parts):
        end, length = start, 0
        while end < len(parts) and (end == start or length + len(parts[end]) <= size):
            length += len(parts[end]) + 1
            end += 1
        yield start, end
        if end == len(parts):
            return
        skipped = 0
        while start < end - 1 and skipped + len(parts[start]) <= size // 2:
            skipped += len(parts[start]) + 1
            start += 1
        if not skipped:
            start += 1
