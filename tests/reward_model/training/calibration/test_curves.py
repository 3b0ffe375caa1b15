"""Fits against the losses that they minimise, by scipy and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from reward_model.errors import BadInput
from reward_model.training.calibration.curves import fit_curve, fit_platt


def test_platt_is_the_minimum_of_his_loss() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=200)
    labels = (generator.random(200) < 1 / (1 + np.exp(1 - 2 * scores))).astype(np.float64)
    high, low = (labels.sum() + 1) / (labels.sum() + 2), 1 / (200 - labels.sum() + 2)
    targets = np.where(labels == 1, high, low)

    def loss(parameters: Any) -> float:
        z = parameters[0] * scores + parameters[1]
        return float(np.sum(targets * np.logaddexp(0, -z) + (1 - targets) * np.logaddexp(0, z)))

    expected = minimize(loss, [1.0, 0.0], tol=1e-10).x
    assert list(fit_platt(scores, labels)) == pytest.approx(expected, abs=1e-3)


def test_a_separable_set_keeps_a_finite_slope() -> None:
    fit = fit_platt(np.array([-1.0, -2.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert 0 < fit.slope < 10


@pytest.mark.parametrize(("method", "said"), [("platt", "slope is -"), ("isotonic", "fit is flat")])
def test_a_model_that_prefers_bad_replies_is_refused(method: Any, said: str) -> None:
    scores, labels = np.arange(60, dtype=np.float64), (np.arange(60) < 30).astype(np.float64)
    with pytest.raises(BadInput, match=said):
        fit_curve(method, scores, labels)


def test_an_isotonic_fit_is_scikit_learn_s() -> None:
    from sklearn.isotonic import IsotonicRegression

    generator = np.random.default_rng(0)
    scores = generator.normal(size=300)
    labels = (generator.random(300) < 1 / (1 + np.exp(-scores))).astype(np.float64)
    expected = IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    points = np.linspace(-4, 4, 50)
    curve = fit_curve("isotonic", scores, labels)
    assert curve.on(points) == pytest.approx(expected.predict(points))
    assert (curve.labels, curve.positives) == (300, int(labels.sum()))


@pytest.mark.parametrize("score", [0.0, -3.5, 1e6])
def test_equal_scores_give_the_base_rate(score: float) -> None:
    fit = fit_platt(np.full(10, score), np.array([1.0] * 3 + [0.0] * 7))
    # Smoothed targets: three of 4/5 and seven of 1/9.
    rate = (3 * 4 / 5 + 7 / 9) / 10
    assert fit.slope == 0
    assert fit.probability(np.array([score]))[0] == pytest.approx(rate)


def test_a_fit_moves_with_its_scores() -> None:
    generator = np.random.default_rng(1)
    scores, labels = generator.normal(size=100), (generator.random(100) < 0.4).astype(np.float64)
    near, far = fit_platt(scores, labels), fit_platt(1000 + scores / 1000, labels)
    assert far.slope == pytest.approx(1000 * near.slope, rel=1e-5)
    assert far.probability(1000 + scores / 1000) == pytest.approx(near.probability(scores), abs=1e-6)
