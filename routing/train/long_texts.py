"""Long texts with and without a question in them, made from prose and from short examples.

A long text is read in windows. Their n-gram model learns from windows of prose, from questions, and from both side by
side, as they stand in a window that a question shares with its neighbours. All choices are seeded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from routing.model.classifier import spelled_out
from routing.model.windows import WINDOW, windows
from routing.train.data import Example

MOST_WINDOWS = 40_000
_SENTENCES = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, slots=True)
class Document:
    """A long text; label is that of the question in it, 0 without stakes."""

    text: str
    label: int


def prose_windows(prose: Sequence[Example], rng: Random, most: int = MOST_WINDOWS) -> list[Example]:
    """Windows of the prose as they are read, at most so many."""
    every = [
        replace(example, text=spelled)
        for example in prose
        for window in windows(example.text)
        if (spelled := spelled_out(window))
    ]
    return rng.sample(every, min(most, len(every)))


def beside(questions: Sequence[Example], prose: Sequence[Example], rng: Random) -> list[Example]:
    """Each question with a piece of prose before or after it, in one window."""
    mixed = []
    for question in questions:
        other = rng.choice(prose).text[: max(0, WINDOW - len(question.text))]
        parts = (other, question.text) if rng.random() < 0.5 else (question.text, other)
        mixed.append(replace(question, text=spelled_out(" ".join(parts))))
    return mixed


def training_examples(short: Sequence[Example], prose: Sequence[Example], seed: int) -> list[Example]:
    """What the n-gram model of windows is fitted on."""
    rng = Random(seed)
    pieces = prose_windows(prose, rng)
    stakes = [example for example in short if example.label > 0]
    calm = [example for example in short if example.label == 0]
    return [
        *stakes,
        *rng.sample(calm, len(calm) // 2),
        *pieces,
        *beside(stakes, pieces, rng),
        *beside(rng.sample(calm, len(calm) // 4), pieces, rng),
    ]


def documents(prose: Sequence[Example]) -> list[Document]:
    """The prose as it is."""
    return [Document(example.text, 0) for example in prose]


def composed(prose: Sequence[Example], longest: int, rng: Random) -> Iterator[Document]:
    """Longer texts: prose put together to lengths drawn evenly on the logarithmic scale, up to `longest` characters."""
    parts: list[str] = []
    goal = 0.0
    for example in rng.sample(prose, len(prose)):
        goal = goal or math.exp(rng.uniform(math.log(400), math.log(longest)))
        parts.append(example.text)
        if sum(map(len, parts)) >= goal:
            yield Document("\n\n".join(parts)[: int(goal)], 0)
            parts, goal = [], 0.0


def with_question(document: Document, question: Example, rng: Random) -> Document:
    """The question as a sentence of its own between two sentences of the document."""
    sentences = _SENTENCES.split(document.text)
    asked = question.text if question.text[-1:] in ".?!" else question.text + "."
    place = rng.randrange(len(sentences) + 1)
    return Document(" ".join([*sentences[:place], asked, *sentences[place:]]), question.label)
