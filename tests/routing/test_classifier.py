"""Serving against scikit-learn, and the arithmetic of probabilities by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from routing.classifier import Classifier, Logits, StakesCalibration, log_odds
from routing.features import buckets
from routing.train.data import authored
from routing.train.ngrams import fit_ngrams, matrix


class Fixed:
    """A model that gives the same logits to every text."""

    def __init__(self, *logits: float) -> None:
        self._logits = logits

    def logits(self, texts: Sequence[str]) -> Logits:
        return np.array([self._logits] * len(texts))


def test_probabilities_by_hand() -> None:
    # Log-odds: ln(e^0 + e^ln3) - 0 = ln 4, and ln(1 + 1) - 0 = ln 2; score = 2 ln 4 + 1 ln 2 - ln 32 = 0.
    models = (Fixed(0.0, 0.0, math.log(3)), Fixed(0.0, 0.0, 0.0))
    classifier = Classifier(models, StakesCalibration((2.0, 1.0), -math.log(32)))
    # P(high stakes) = 1/2, shared 1 : 3 between billing and fraud.
    np.testing.assert_allclose(classifier.probabilities(["x"]), [[0.125, 0.375]], rtol=1e-12)


def test_nothing_in_nothing_out() -> None:
    assert Classifier((Fixed(0, 0, 0),), StakesCalibration((1.0,), 0.0)).probabilities([]).shape == (0, 2)


def test_log_odds_by_hand() -> None:
    assert log_odds(np.array([[1.0, 2.0, 2.0]]))[0] == pytest.approx(1 + math.log(2))


def test_extreme_scores_stay_probabilities() -> None:
    calm, sure = StakesCalibration((1.0,), 0.0).probability(np.array([[-1e9], [1e9]]))
    assert 0 <= calm < 1e-20
    assert sure == pytest.approx(1.0)


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
