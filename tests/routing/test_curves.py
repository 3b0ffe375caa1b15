"""Curves recovered from what made them, and the cascade's bounds by hand."""

from __future__ import annotations

import numpy as np
import pytest

from routing.model.manifest import FittedCalibration
from routing.train.curves import fit_cascade, fit_curve


def test_a_curve_recovers_the_probabilities_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 3, 4_000)
    truth = rng.random(4_000) < 1 / (1 + np.exp(-(0.5 * odds - 1)))
    fitted = fit_curve(odds[:, None], truth)
    assert fitted.slopes[0] == pytest.approx(0.5, abs=0.05)
    assert fitted.intercept == pytest.approx(-1, abs=0.15)
    assert (fitted.labels, fitted.positives) == (4_000, int(truth.sum()))


def test_bounds_stand_half_a_unit_beyond_the_last_disagreement() -> None:
    def logits(odds: list[float], gap: float) -> np.ndarray:
        """Two classes, the second `gap` above the first."""
        high = np.array(odds) - np.logaddexp(0, gap)
        return np.stack([np.zeros(len(odds)), high, high + gap], axis=1)

    encoder = logits([5, 5, -5, -5, 5], 3.0)
    ngrams = logits([-2, 4, 1, -6, 6], 3.0)
    # The last text's class is billing to the n-grams and fraud to both models together.
    ngrams[4] = [0.0, 6.0, 4.5]
    both = FittedCalibration(slopes=(1.0, 0.1), intercept=0.0, labels=5, positives=3)
    cascade = fit_cascade(encoder, ngrams, np.array([1, 2, 0, 0, 2]), both, 0.5)
    # Taken by both: texts 0, 1 and 4; the lowest of the n-grams among them is -2. The highest not taken is 1.
    assert cascade.lower == pytest.approx(-2.5)
    assert cascade.upper == pytest.approx(1.5)
    assert cascade.margin == pytest.approx(1.5 + 0.5)
