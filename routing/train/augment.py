"""Typed text made to sound spoken: no punctuation, an opening, fillers, a stutter now and then."""

from __future__ import annotations

import re
from random import Random

OPENINGS = (
    "hi",
    "yeah hi",
    "uh hi",
    "hello",
    "hi um",
    "so",
    "okay so",
    "um",
    "yeah",
    "good morning",
    "hi there",
    "uh yeah",
    "hey",
    "yes",
    "well",
    "so um",
    "hi yes",
    "hi I was calling because",
    "yeah I just wanted to ask",
    "hello I have a question",
)
FILLERS = ("um", "uh", "like", "you know", "I mean", "so", "just", "kind of")
_PUNCTUATION = re.compile(r"[?.,!;:]")


def spoken(text: str, rng: Random) -> str:
    """A transcript of somebody saying the text."""
    heard: list[str] = []
    for word in _PUNCTUATION.sub("", text).split():
        if rng.random() < 0.08:
            heard.append(rng.choice(FILLERS))
        heard.extend([word] * (2 if rng.random() < 0.03 else 1))
    opening = [rng.choice(OPENINGS)] if rng.random() < 0.7 else []
    return " ".join(opening + heard)


def vary(text: str, rng: Random) -> str:
    """The text as it is, spoken (3 in 10) or in lower case (1 in 7)."""
    if rng.random() < 0.3:
        return spoken(text, rng)
    return text.lower() if rng.random() < 0.2 else text
