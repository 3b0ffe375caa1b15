"""Fit the curves of a stage on the validation side: both models, n-grams alone, and where these suffice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from routing.model.classifier import ENCODED, Logits, NgramModel, TextModel, spelled_out
from routing.model.manifest import FittedCalibration, FittedCascade, FittedStage
from routing.model.windows import windows
from routing.text.conversation import BOUND
from routing.train.data import Corpus, Example
from routing.train.evaluate import labels, odds_of
from routing.train.long_texts import Document, beside, composed, documents, prose_windows, with_question

# Texts on either side of a bound, beyond the last one on which the n-grams alone would have been wrong.
_GUARD = 0.5
_WINDOWS = 4_000

Odds = NDArray[np.float64]


def logistic(variables: Odds, truth: NDArray[np.bool_]) -> tuple[tuple[float, ...], float]:
    """Slopes and intercept (scikit-learn's logistic regression, weakly regularised)."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=10.0).fit(variables, truth)
    return tuple(map(float, fitted.coef_[0])), float(fitted.intercept_[0])


def fit_curve(odds: Odds, truth: NDArray[np.bool_]) -> FittedCalibration:
    """Platt scaling of the log-odds [texts, models]."""
    slopes, intercept = logistic(odds, truth)
    return FittedCalibration(slopes=slopes, intercept=intercept, labels=len(truth), positives=int(truth.sum()))


def fit_cascade(
    encoder: Logits, ngrams: Logits, truth: NDArray[np.int64], both: FittedCalibration, threshold: float
) -> FittedCascade:
    """Bounds of the n-grams' log-odds outside which they and both models together decide alike."""
    ours = odds_of(ngrams)
    scores = np.stack([odds_of(encoder), ours], axis=1) @ np.array(both.slopes) + both.intercept
    taken = scores >= math.log(threshold / (1 - threshold))
    lower = float(ours[taken & (truth > 0)].min()) - _GUARD
    upper = max(float(ours[~taken].max()), lower) + _GUARD
    beyond = ours > upper
    differ = beyond & (ngrams[:, 1:].argmax(axis=1) != (ngrams + encoder)[:, 1:].argmax(axis=1))
    gaps = np.diff(np.sort(ngrams[:, 1:], axis=1)[:, -2:], axis=1)[:, 0] if ngrams.shape[1] > 2 else np.zeros(len(ours))
    margin = float(gaps[differ].max()) + _GUARD if differ.any() else 0.0
    return FittedCascade(lower=lower, upper=upper, margin=margin, alone=fit_curve(ours[:, None], truth > 0))


class _Read(NamedTuple):
    """A document after both models: how many windows, the highest score of both, the n-grams' highest log-odds."""

    windows: int
    score: float
    odds: float


class LongTextFit:
    """Fits the curves of windows: on windows first, then on documents.

    How many long texts have stakes is not known, so the intercept is the one at which `threshold` lets the share
    `rate` of the validation side's prose pass.
    """

    def __init__(self, ngrams: NgramModel, encoder: TextModel | None, threshold: float, rate: float) -> None:
        self._ngrams, self._encoder = ngrams, encoder
        self._threshold, self._rate = threshold, rate
        self._window: FittedCalibration | None = None
        self._cascade: FittedCascade | None = None

    def fit(self, corpus: Corpus) -> FittedStage:
        """The stage's curves, from the validation side."""
        rng = Random(1)
        prose, short = corpus.prose_on("validation"), corpus.on("validation")
        questions = [example for example in short if example.label > 0]
        if self._encoder is not None:
            self._fit_windows(self._encoder, prose, short, rng)
        made = [*composed(prose, BOUND, rng), *composed(prose, BOUND, rng)]
        asked = [with_question(rng.choice(made), question, rng) for question in questions]
        reads = [self._read(document) for document in (*made, *asked)]
        natural = [self._read(document) for document in documents(prose)]
        stakes = np.arange(len(reads)) >= len(made)
        alone = self._curve([(r.odds, r.windows) for r in reads], stakes, [(r.odds, r.windows) for r in natural])
        if self._window is None or self._cascade is None:
            return FittedStage(calibration=alone)
        outer = self._curve([(r.score, r.windows) for r in reads], stakes, [(r.score, r.windows) for r in natural])
        slope = outer.slopes[0]
        both = {
            "slopes": tuple(slope * each for each in self._window.slopes),
            "intercept": outer.intercept + slope * self._window.intercept,
        }
        return FittedStage(
            calibration=outer.model_copy(update=both), cascade=self._cascade.model_copy(update={"alone": alone})
        )

    def _fit_windows(self, encoder: TextModel, prose: Sequence[Example], short: Sequence[Example], rng: Random) -> None:
        pieces = prose_windows(prose, rng, _WINDOWS)
        stakes = [example for example in short if example.label > 0]
        calm = [example for example in short if example.label == 0]
        calm = rng.sample(calm, len(calm) // 4)
        mixed = [*pieces, *beside(stakes, pieces, rng), *beside(calm, pieces, rng)]
        truth = labels(mixed)
        grams = self._ngrams.logits([example.text for example in mixed])
        read = encoder.logits([example.text for example in mixed])
        self._window = fit_curve(np.stack([odds_of(read), odds_of(grams)], axis=1), truth > 0)
        self._cascade = fit_cascade(read, grams, truth, self._window, self._threshold)

    def _read(self, document: Document) -> _Read:
        texts = [spelled for part in windows(document.text) if (spelled := spelled_out(part))]
        odds = odds_of(self._ngrams.logits(texts))
        if self._encoder is None or self._window is None or self._cascade is None:
            return _Read(len(texts), float(odds.max()), float(odds.max()))
        order = np.argsort(-odds)[:ENCODED]
        unclear = [index for index in order if odds[index] >= self._cascade.lower] or order[:1]
        read = odds_of(self._encoder.logits([texts[index] for index in unclear]))
        scores = np.stack([read, odds[unclear]], axis=1) @ np.array(self._window.slopes) + self._window.intercept
        return _Read(len(texts), float(scores.max()), float(odds.max()))

    def _curve(
        self, reads: Sequence[tuple[float, int]], stakes: NDArray[np.bool_], natural: Sequence[tuple[float, int]]
    ) -> FittedCalibration:
        fitted, own = np.array(reads), np.array(natural)
        fitted[:, 1], own[:, 1] = np.log(fitted[:, 1]), np.log(own[:, 1])
        (slope, per_window), _ = logistic(fitted, stakes)
        limit = float(np.quantile(own @ np.array([slope, per_window]), 1 - self._rate, method="higher"))
        intercept = math.log(self._threshold / (1 - self._threshold)) - limit - 1e-4
        return FittedCalibration(
            slopes=(slope,), intercept=intercept, windows=per_window, labels=len(stakes), positives=int(stakes.sum())
        )
