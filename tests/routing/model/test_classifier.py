"""The cascade worked out by hand, and serving against scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from routing.model.classifier import (
    ENCODED,
    SHORT,
    Cascade,
    Classifier,
    Logits,
    NgramModel,
    Stage,
    StakesCalibration,
    log_odds,
    spelled_out,
)
from routing.model.features import BUCKETS, buckets
from routing.model.windows import windows
from routing.train.data import authored
from routing.train.ngrams import fit_ngrams, matrix


class Counting:
    """An encoder that gives the same logits to every text, and keeps what it read."""

    def __init__(self, *logits: float) -> None:
        self._logits = logits
        self.read: list[str] = []

    def logits(self, texts: Sequence[str]) -> Logits:
        self.read += texts
        return np.array([self._logits] * len(texts))


def ngrams(**logits: tuple[float, float, float]) -> NgramModel:
    """A model in which each word alone has these logits (its n-grams share one weight, scaled to length 1)."""
    weights, idf = np.zeros((3, BUCKETS), dtype=np.float32), np.ones(BUCKETS, dtype=np.float32)
    for word, values in logits.items():
        index = buckets(word)
        weights[:, index] = np.array(values)[:, None] / math.sqrt(len(index))
    return NgramModel(weights, np.zeros(3, dtype=np.float32), idf)


WORDS = ngrams(calm=(9, 0, 0), stakes=(0, 9, 0), either=(0, 9, 8.5), hm=(0, 0, 0))
ALONE = StakesCalibration((1.0,), 0.0)
STAGE = Stage(WORDS, StakesCalibration((2.0, 1.0), -1.0), Cascade(-4.0, 4.0, 2.0, ALONE))


def estimate(classifier: Classifier, text: str) -> tuple[float, list[float]]:
    found = classifier.finish([classifier.scan(text)])[0]
    assert found is not None
    return found.score, found.shares.tolist()


def test_clear_texts_need_no_encoder() -> None:
    encoder = Counting(0.0, 0.0, 0.0)
    classifier = Classifier(STAGE, STAGE, encoder)
    # ln (e^0 + e^0) - 9 and ln (e^9 + 1) - 0.
    assert estimate(classifier, "calm")[0] == pytest.approx(math.log(2) - 9, abs=1e-5)
    assert estimate(classifier, "stakes")[0] == pytest.approx(math.log(math.exp(9) + 1), abs=1e-5)
    assert encoder.read == []


def test_unclear_texts_are_read_by_both() -> None:
    encoder = Counting(1.0, 0.0, math.log(3))
    classifier = Classifier(STAGE, STAGE, encoder)
    # Encoder: ln (1 + 3) - 1; n-grams: ln 2; score = 2 (ln 4 - 1) + ln 2 - 1. Shares 1 : 3.
    score, shares = estimate(classifier, "HM")
    assert score == pytest.approx(2 * (math.log(4) - 1) + math.log(2) - 1, abs=1e-6)
    assert shares == pytest.approx([0.25, 0.75])
    assert encoder.read == ["hm"]


def test_high_stakes_of_an_unclear_class_are_read_by_both() -> None:
    encoder = Counting(0.0, 0.0, 5.0)
    assert estimate(Classifier(STAGE, STAGE, encoder), "either")[1][1] > 0.9
    assert encoder.read == ["either"]


def test_without_an_encoder_the_ngrams_decide_all() -> None:
    stage = Stage(WORDS, None, Cascade(math.inf, math.inf, 0.0, ALONE))
    assert estimate(Classifier(stage, stage, None), "hm")[0] == pytest.approx(math.log(2))


def test_the_most_high_stakes_window_decides_and_more_windows_count() -> None:
    long = Stage(WORDS, None, Cascade(math.inf, math.inf, 0.0, StakesCalibration((1.0,), 0.0, windows=-1.5)))
    classifier = Classifier(STAGE, long, None)
    text = "stakes. " + "calm. " * 100
    assert len(text) > SHORT
    assert estimate(classifier, text)[0] > estimate(classifier, "calm. " * 100)[0] + 5
    few, many = (estimate(classifier, "calm. " * count)[0] for count in (100, 1_000))
    ratio = len(windows("calm. " * 1_000)) / len(windows("calm. " * 100))
    assert many - few == pytest.approx(-1.5 * math.log(ratio))


def test_the_encoder_reads_a_bounded_number_of_windows() -> None:
    encoder = Counting(0.0, 0.0, 0.0)
    classifier = Classifier(STAGE, STAGE, encoder)
    classifier.finish([classifier.scan("hm. " * 4_000), classifier.scan("hm")])
    assert len(encoder.read) == ENCODED


def test_nothing_to_read_has_no_estimate() -> None:
    classifier = Classifier(STAGE, STAGE, None)
    assert classifier.finish([classifier.scan(" \u200b\n")]) == [None]
    assert classifier.finish([]) == []


def test_curve_by_hand() -> None:
    curve = StakesCalibration((2.0, 0.5), 1.0, windows=-3.0)
    assert curve.score([1.0, 4.0], 1) == pytest.approx(5.0)
    assert curve.score([1.0, 4.0], 10) == pytest.approx(5.0 - 3 * math.log(10))


def test_log_odds_by_hand() -> None:
    assert log_odds(np.array([1.0, 2.0, 2.0])) == pytest.approx(1 + math.log(2))


def test_disguised_words_are_spelled_out() -> None:
    assert spelled_out("I wаs ch4rged\u200b  tw\u00edce\n") == "i was charged twice"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_ngrams_are_served_as_scikit_learn_fits_them() -> None:
    examples = authored()[::4]
    model = fit_ngrams(examples)
    features = matrix([buckets(example.text) for example in examples], model.idf)
    fitted = LogisticRegression(C=10.0, max_iter=400).fit(
        features, [example.label for example in examples], [3.0] * len(examples)
    )
    expected = fitted.decision_function(features[:50])
    # What is stored is half precision.
    np.testing.assert_allclose(model.logits([e.text for e in examples[:50]]), expected, atol=5e-3)
