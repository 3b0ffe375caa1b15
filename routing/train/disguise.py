"""Spellings that hide words from a filter, to measure recall on them; seeded."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

_CYRILLIC = str.maketrans("aceopxysi", "асеорхуѕі")
_GREEK = str.maketrans("aopvi", "αορνι")
_LEET = str.maketrans("aeiost", "431057")
_ACCENTS = ("\u0300", "\u0301", "\u0302", "\u0308")
_WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


def _some(text: str, table: dict[int, int], rng: Random, share: float = 0.5) -> str:
    return "".join(letter.translate(table) if rng.random() < share else letter for letter in text)


def _inside(text: str, mark: str, rng: Random) -> str:
    """The mark between letters of a word, in one place of three."""
    return "".join(
        letter + (mark if letter.isalpha() and following.isalpha() and rng.random() < 0.33 else "")
        for letter, following in zip(text, text[1:] + " ", strict=True)
    )


def _leet(text: str, rng: Random) -> str:
    """Digits for one inner letter of each word of five letters or more."""
    words = text.split(" ")
    for number, word in enumerate(words):
        places = [place for place in range(1, len(word) - 1) if word[place] in "aeiost" and word.isalpha()]
        if len(word) >= 5 and places:
            place = rng.choice(places)
            words[number] = word[:place] + word[place].translate(_LEET) + word[place + 1 :]
    return " ".join(words)


def _accented(text: str, rng: Random) -> str:
    return "".join(letter + (rng.choice(_ACCENTS) if letter in "aeiou" else "") for letter in text)


def _spaced(text: str) -> str:
    return "  ".join(" ".join(word) if len(word) >= 4 else word for word in text.split())


DISGUISES: dict[str, Callable[[str, Random], str]] = {
    "zero-width characters": lambda text, rng: _inside(text, "\u200b", rng),
    "soft hyphens": lambda text, rng: _inside(text, "\u00ad", rng),
    "full-width letters": lambda text, rng: text.translate(_WIDE),
    "Cyrillic homoglyphs": lambda text, rng: _some(text, _CYRILLIC, rng),
    "Greek homoglyphs": lambda text, rng: _some(text, _GREEK, rng),
    "accents": _accented,
    "struck through": lambda text, rng: _inside(text, "\u0336", rng),
    "digits for letters": _leet,
    "spaced letters": lambda text, rng: _spaced(text),
}
