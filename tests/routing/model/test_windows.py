"""Windows of long texts: nothing is left out, sentences stay whole, neighbours overlap."""

from __future__ import annotations

import itertools
import re

import pytest

from routing.model.windows import WINDOW, windows

SENTENCES = [f"Sentence {number} of this text." for number in range(100)]


def test_a_short_text_is_its_own_window() -> None:
    assert windows("I was\ncharged.") == ["I was\ncharged."]
    assert windows(" \n") == []


@pytest.mark.parametrize(
    "text",
    [
        " ".join(SENTENCES),
        "\n".join(word for sentence in SENTENCES for word in sentence.split()),
        "no end " * 500,
        "x" * 5_000,
        "短い文です。" * 300,
        "<p>" + "</p><p class='a'>".join(SENTENCES) + "</p>",
    ],
)
def test_every_window_fits_and_nothing_is_left_out(text: str) -> None:
    made = windows(text)
    assert all(0 < len(window) <= WINDOW for window in made)
    # About twice the text, and every run of letters in order in some window.
    assert sum(map(len, made)) <= 2.5 * len(text)
    runs = {run[:40] for run in re.findall(r"[^\W\d_]+|\d+", re.sub(r"</?\w+", " ", text))}
    assert all(any(run in window for window in made) for run in runs)


def test_two_neighbouring_sentences_share_a_window() -> None:
    made = windows(" ".join(SENTENCES))
    for left, right in itertools.pairwise(SENTENCES):
        assert any(f"{left} {right}" in window for window in made)


def test_a_sentence_up_to_a_window_stays_whole() -> None:
    sentence = "a" * (WINDOW - 10) + " end."
    assert sentence in windows(f"Before. {sentence} {'After. ' * 50}")


def test_lines_and_tags_end_sentences() -> None:
    made = windows("<div>first<br/>second</div>" + "\nfill" * 40)
    assert made[0].startswith("first second fill")
