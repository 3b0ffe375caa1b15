"""The trained classifier as it is served: numpy over n-grams; no torch, no scikit-learn, no pickle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.features import buckets, weigh

CLASSES = ("default", "billing", "fraud")


@dataclass(frozen=True)
class Calibration:
    """Platt scaling of the log-odds of high stakes: P = 1 / (1 + exp(-(slope * log-odds + intercept)))."""

    slope: float
    intercept: float

    def probability(self, log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
        """P(high stakes) of each log-odds."""
        return 1.0 / (1.0 + np.exp(-np.clip(self.slope * log_odds + self.intercept, -60, 60)))


class NgramModel:
    """Multinomial logistic regression over hashed n-grams: weights [3, BUCKETS], bias [3], idf [BUCKETS]."""

    def __init__(self, weights: NDArray[np.float32], bias: NDArray[np.float32], idf: NDArray[np.float32]) -> None:
        self.weights, self.bias, self.idf = weights, bias, idf

    def logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[texts, 3] in the order of CLASSES."""
        out = np.empty((len(texts), len(CLASSES)))
        for row, text in enumerate(texts):
            index = buckets(text)
            out[row] = self.weights[:, index] @ weigh(index, self.idf) + self.bias
        return out


class Classifier:
    """Texts to calibrated probabilities of billing and fraud."""

    def __init__(self, ngrams: NgramModel, calibration: Calibration) -> None:
        self._ngrams = ngrams
        self._calibration = calibration

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[texts, 2]: P(billing), P(fraud); their sum is the calibrated P(high stakes)."""
        if not texts:
            return np.empty((0, 2))
        logits = self._ngrams.logits(texts)
        high = np.logaddexp(logits[:, 1], logits[:, 2])
        stakes = self._calibration.probability(high - logits[:, 0])
        shares = np.exp(logits[:, 1:] - high[:, None])
        return shares * stakes[:, None]
