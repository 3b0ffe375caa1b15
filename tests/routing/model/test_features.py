"""Words, n-grams and buckets by hand and by definition, and their weights against scikit-learn."""

from __future__ import annotations

import itertools
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.model.features import BUCKETS, HashedWords, buckets, weigh, words


def by_definition(tokens: list[str]) -> list[int]:
    grams = {f"w:{token}" for token in tokens} | {f"w:{a} {b}" for a, b in itertools.pairwise(tokens)}
    for token in tokens:
        padded = f" {token[:40]} "
        grams |= {padded[at : at + size] for size in (3, 4, 5) for at in range(len(padded) - size + 1)}
    return sorted({crc32(gram.encode()) % BUCKETS for gram in grams})


def test_words_fold_case_width_digits_and_quotes() -> None:
    assert words("I’ve PAID £12.50, twice!") == ["i've", "paid", "£", "0", "0", "twice"]
    assert words("ＦＥＥ") == ["fee"]
    assert words("!!! 💳") == []


def test_buckets_of_two_words() -> None:
    grams = ("w:a", "w:fee", "w:a fee", " a ", " fe", "fee", "ee ", " fee", "fee ", " fee ")
    assert buckets("A fee").tolist() == sorted({crc32(gram.encode()) % BUCKETS for gram in grams})
    assert buckets("").tolist() == []


@given(st.text(max_size=80))
def test_buckets_are_those_of_the_definition(text: str) -> None:
    assert buckets(text).tolist() == by_definition(words(text))


def test_a_slice_is_what_its_words_alone_give() -> None:
    tokens = words("one two three four naïve five")
    hashed = HashedWords(tokens)
    for start, end in itertools.combinations(range(len(tokens) + 1), 2):
        assert hashed.buckets(start, end).tolist() == by_definition(tokens[start:end])


def test_weigh_is_what_scikit_learn_does() -> None:
    normalize = pytest.importorskip("sklearn.preprocessing").normalize
    idf = np.linspace(1, 9, BUCKETS).astype(np.float32)
    index = buckets("charged twice for one coffee")
    expected = normalize(idf[index][None, :])[0]
    np.testing.assert_allclose(weigh(index, idf), expected, rtol=1e-5)
    assert weigh(buckets(""), idf).size == 0
