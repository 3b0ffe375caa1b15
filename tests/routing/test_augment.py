"""Spoken variants keep the words and lose the punctuation."""

from __future__ import annotations

from random import Random

from routing.train.augment import FILLERS, OPENINGS, spoken, vary


def test_the_words_stay_in_order() -> None:
    text = "Why was I charged twice, please?"
    for seed in range(50):
        heard = spoken(text, Random(seed)).split()
        remaining = iter(heard)
        assert all(word in remaining for word in ["Why", "was", "I", "charged", "twice", "please"])


def test_fillers_come_from_the_lists_and_punctuation_goes() -> None:
    known = set(" ".join((*OPENINGS, *FILLERS, "Pay my bill")).split())
    for seed in range(50):
        assert set(spoken("Pay my bill!", Random(seed)).split()) <= known


def test_the_same_seed_hears_the_same() -> None:
    assert [vary("Pay my bill.", Random(4)) for _ in range(3)] == [vary("Pay my bill.", Random(4))] * 3
