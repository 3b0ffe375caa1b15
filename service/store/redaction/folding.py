"""A text folded for finding: digits, spaces and dashes of every kind as the plain ones, invisible characters left out.

Only what is found is replaced, so positions of the folded text lead back to the original, which otherwise stays as it
is.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

# What nothing matches: stands for what was found already, and for placeholders of an earlier run.
MASK = "\x00"
# Unicode's Default_Ignorable_Code_Point beyond category Cf, and the mark that makes a digit a keycap.
_IGNORED = {
    0x034F,
    0x115F,
    0x1160,
    0x17B4,
    0x17B5,
    0x20E3,
    0x3164,
    0xFFA0,
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
}
_IGNORED |= set(range(0xE0000, 0xE1000))
_DASHES = {"\u2212", "\u02d7", "\u2043", "\u00ad"}
_DOTS = {"\u00b7", "\u2022", "\u2024", "\u2027", "\u2219", "\u22c5"}


@dataclass(frozen=True)
class Folded:
    """`text` for finding; `starts[i]` is where its character i stands in the original, `None` if all stand alike."""

    text: str
    starts: list[int] | None

    def original(self, first: int, last: int) -> tuple[int, int]:
        """A span of the original: up to the end of its last character, without what follows unseen."""
        return (first, last) if self.starts is None else (self.starts[first], self.starts[last - 1] + 1)


def fold(text: str) -> Folded:
    """Linear in the text."""
    if text.isascii():
        return Folded(text.translate(_ASCII), None)
    characters = [_plain(character) for character in text]
    if all(characters):
        return Folded("".join(characters), None)
    starts = [index for index, character in enumerate(characters) if character]
    return Folded("".join(characters), starts)


_ASCII = str.maketrans("\t\n\v\f\r\x00", "      ")


@lru_cache(4096)
def _plain(character: str) -> str:
    """One character for one, or none."""
    if character.isascii():
        return character.translate(_ASCII)
    category = unicodedata.category(character)
    if character == "\u00ad" or category == "Cf" or ord(character) in _IGNORED:
        return ""
    if category in ("Zs", "Zl", "Zp") or character == "\x85":
        return " "
    if category == "Pd" or character in _DASHES:
        return "-"
    if character in _DOTS:
        return "."
    if (digit := unicodedata.digit(character, None)) is not None:
        return str(digit)
    plain = unicodedata.normalize("NFKC", character)
    return plain if len(plain) == 1 else character
