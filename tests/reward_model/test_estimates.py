"""Figures from rows that were not drawn alike, against values by hand and other libraries."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from reward_model.estimates import at_equal_length, brier, expected_calibration_error, weighted_share


def test_equal_weights_change_nothing() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0])
    share = weighted_share(values, np.full(4, 7.0))
    interval = binomtest(3, 4).proportion_ci(method="wilson")
    assert share == weighted_share(values)
    assert (share.value, share.rows, share.effective) == (0.75, 4, 4.0)
    assert share.ci == pytest.approx([interval.low, interval.high], abs=1e-4)


def test_a_row_stands_for_its_weight_and_counts_for_less_rows() -> None:
    # Three rows of weight 1 and one of weight 5: (3 x 1 + 5 x 0) / 8; effective 8 x 8 / (3 + 25).
    share = weighted_share(np.array([1.0, 1.0, 1.0, 0.0]), np.array([1.0, 1.0, 1.0, 5.0]))
    assert (share.value, share.effective) == (0.375, 2.3)
    assert share.ci[0] < 0.1
    assert share.ci[1] > 0.8


def test_nothing_says_nothing() -> None:
    assert weighted_share(np.array([])) == (None, [0.0, 1.0], 0, 0.0)


def test_weights_are_copies_of_rows() -> None:
    generator = np.random.default_rng(0)
    probabilities, copies = generator.random(60), generator.integers(1, 5, 60)
    outcomes = (generator.random(60) < probabilities).astype(float)
    repeated = np.repeat(probabilities, copies), np.repeat(outcomes, copies)
    weights = copies.astype(float)
    assert expected_calibration_error(probabilities, outcomes, weights=weights) == pytest.approx(
        expected_calibration_error(*repeated)
    )
    expected = brier_score_loss(outcomes, probabilities, sample_weight=weights)
    assert brier(probabilities, outcomes, weights) == pytest.approx(expected)


def test_at_equal_length_is_the_intercept_of_a_weighted_fit() -> None:
    generator = np.random.default_rng(0)
    gap, weights = generator.normal(size=300), generator.uniform(0.5, 4, 300)
    won = (generator.random(300) < 1 / (1 + np.exp(-(0.6 + gap)))).astype(float)
    # The reranked side is always the favoured one: its coefficient is what an ordinary fit calls the intercept.
    fitted = LogisticRegression(C=np.inf).fit(gap[:, None], won, weights)
    expected = 1 / (1 + np.exp(-fitted.intercept_[0]))
    assert at_equal_length(np.ones(300), gap, won, weights) == pytest.approx(expected, abs=1e-3)


def test_a_tie_is_half_a_win_for_each() -> None:
    ones, none = np.ones(4), np.zeros(4)
    assert at_equal_length(ones, none, np.array([1.0, 1.0, 0.5, 0.5])) == pytest.approx(0.75, abs=1e-3)
    assert at_equal_length(ones, none, np.full(4, 0.5)) == pytest.approx(0.5)
    assert at_equal_length(none, none, np.ones(4)) is None
    assert at_equal_length(ones, none, np.ones(4)) == 1.0
