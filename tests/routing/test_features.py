"""N-grams by hand, and their weights against scikit-learn."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pytest

from routing.features import BUCKETS, buckets, ngrams, weigh, words


def test_words_fold_case_width_digits_and_quotes() -> None:
    assert words("I’ve PAID £12.50, twice!") == ["i've", "paid", "£", "0", "0", "twice"]
    assert words("ＦＥＥ") == ["fee"]
    assert words("!!! 💳") == []


def test_ngrams_of_two_words() -> None:
    assert ngrams("A fee") == {
        "w:a",
        "w:fee",
        "w:a fee",
        " a ",
        " fe",
        "fee",
        "ee ",
        " fee",
        "fee ",
        " fee ",
    }


def test_buckets_are_crc32_of_the_ngrams() -> None:
    expected = sorted(
        {
            crc32(gram.encode()) % BUCKETS
            for gram in ("w:a", "w:fee", "w:a fee", " a ", " fe", "fee", "ee ", " fee", "fee ", " fee ")
        }
    )
    assert buckets("A fee").tolist() == expected
    assert buckets("").tolist() == []


def test_weigh_is_what_scikit_learn_does() -> None:
    normalize = pytest.importorskip("sklearn.preprocessing").normalize
    idf = np.linspace(1, 9, BUCKETS).astype(np.float32)
    index = buckets("charged twice for one coffee")
    expected = normalize(idf[index][None, :])[0]
    np.testing.assert_allclose(weigh(index, idf), expected, rtol=1e-5)
    assert weigh(buckets(""), idf).size == 0
