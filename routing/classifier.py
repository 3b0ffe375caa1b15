"""The trained classifier as it is served: a small encoder and n-grams; no torch, no scikit-learn, no pickle.

The encoder knows words of like meaning, the n-grams the exact words. Each model gives the log-odds of high
stakes, ln (1 - P(default)) / P(default); one logistic regression over the two, fitted on texts that
neither was trained on (Platt scaling in two variables), gives the probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from routing.features import buckets, weigh

Logits = NDArray[np.float64]


class TextModel(Protocol):
    """Texts to logits [texts, classes], the first class being `default`."""

    def logits(self, texts: Sequence[str]) -> Logits: ...


class NgramModel:
    """Logistic regression over hashed n-grams: weights [classes, BUCKETS], bias [classes], idf [BUCKETS]."""

    def __init__(self, weights: NDArray[np.float32], bias: NDArray[np.float32], idf: NDArray[np.float32]) -> None:
        self.weights, self.bias, self.idf = weights, bias, idf

    def logits(self, texts: Sequence[str]) -> Logits:
        """[texts, classes]."""
        out = np.empty((len(texts), len(self.bias)))
        for row, text in enumerate(texts):
            index = buckets(text)
            out[row] = self.weights[:, index] @ weigh(index, self.idf) + self.bias
        return out


@dataclass(frozen=True)
class StakesCalibration:
    """P(high stakes) = 1 / (1 + exp(-(slopes . log-odds of each model + intercept)))."""

    slopes: tuple[float, ...]
    intercept: float

    def probability(self, log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
        """From [texts, models] to [texts]."""
        score: NDArray[np.float64] = log_odds @ np.asarray(self.slopes) + self.intercept
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(score, -60, 60))))


def log_odds(logits: Logits) -> NDArray[np.float64]:
    """ln (1 - P(default)) / P(default) of each row."""
    odds: NDArray[np.float64] = np.logaddexp.reduce(logits[:, 1:], axis=1) - logits[:, 0]
    return odds


class Classifier:
    """Texts to calibrated probabilities of the classes with stakes."""

    def __init__(self, models: Sequence[TextModel], calibration: StakesCalibration) -> None:
        self._models = tuple(models)
        self._calibration = calibration

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[texts, classes - 1]: of each class but `default`; their sum is the calibrated P(high stakes)."""
        if not texts:
            return np.empty((0, 2))
        logits = [model.logits(texts) for model in self._models]
        stakes = self._calibration.probability(np.stack([log_odds(each) for each in logits], axis=1))
        both = np.sum(logits, axis=0)[:, 1:]
        shares = np.exp(both - np.logaddexp.reduce(both, axis=1)[:, None])
        return np.asarray(shares * stakes[:, None])
