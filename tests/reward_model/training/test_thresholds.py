"""Risk-controlled thresholds against scipy, by hand, and in a thousand simulated draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from reward_model.training.thresholds import by_bucket, labels_needed, risk_controlled

DRAWS, DELTA, ALPHA = 1000, 0.1, 0.1
# P(acceptable) as a function of what the calibrator says; above 0.8 the true risk is just over alpha.
STEPS = np.array([0.5, 0.6, 0.7, 0.8, 0.9])


@pytest.mark.parametrize(("alpha", "delta", "count"), [(0.05, 0.05, 59), (0.1, 0.05, 29), (0.05, 0.01, 90)])
def test_how_many_labels_the_promise_needs(alpha: float, delta: float, count: int) -> None:
    assert labels_needed(alpha, delta) == count
    assert (1 - alpha) ** count <= delta < (1 - alpha) ** (count - 1)


def test_59_accepted_without_an_error_are_enough_and_58_are_not() -> None:
    assert risk_controlled(np.full(59, 0.9), np.ones(59), 0.05, 0.05).threshold == 0.01
    short = risk_controlled(np.full(58, 0.9), np.ones(58), 0.05, 0.05)
    assert short.threshold is None
    assert "59" in short.why


def test_the_lowest_threshold_before_the_first_that_fails_is_kept() -> None:
    # 100 right at 0.9, 100 at 0.6 of which 20 are wrong: with those the share is 10 %.
    probabilities = np.repeat([0.9, 0.6], 100)
    good = np.concatenate([np.ones(100), np.repeat([0, 1], [20, 80])])
    found = risk_controlled(probabilities, good, 0.05, 0.05)
    assert (found.threshold, found.accepted, found.unacceptable) == (0.61, 100, 0)
    assert found.p_value == pytest.approx(binomtest(0, 100, 0.05, alternative="less").pvalue)


def test_too_many_errors_at_the_strictest_give_none_and_say_so() -> None:
    found = risk_controlled(np.full(200, 0.95), np.repeat([0, 1], [20, 180]), 0.05, 0.05)
    assert found.threshold is None
    assert "20 of the 200" in found.why


def test_buckets_share_delta() -> None:
    clean = (np.full(70, 0.9), np.ones(70, dtype=bool))
    # 59 are enough at 0.05, 72 at 0.025: 70 lie between.
    assert by_bucket({"billing": clean}, 0.05, 0.05)["billing"].threshold is not None
    both = by_bucket({"billing": clean, "fraud": clean}, 0.05, 0.05)
    assert both["billing"].threshold is None
    assert labels_needed(0.05, 0.025) == 72


@pytest.mark.parametrize(("alpha", "delta"), [(0, 0.05), (1, 0.05), (0.05, 0), (0.05, 1.5)])
def test_impossible_risks_are_refused(alpha: float, delta: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        risk_controlled([0.5], [True], alpha, delta)


def _world(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """300 winners; each probability step is optimistic, and the true risk of a threshold is known."""
    probabilities = generator.choice(STEPS, size=300)
    return probabilities, generator.random(300) < _true_share(probabilities)


def _true_share(probabilities: np.ndarray) -> np.ndarray:
    return np.interp(probabilities, STEPS, [0.6, 0.7, 0.8, 0.88, 0.95])


def _true_risk(threshold: float) -> float:
    return float((1 - _true_share(STEPS[STEPS >= threshold])).mean())


def _naive(probabilities: np.ndarray, good: np.ndarray) -> float | None:
    """The lowest threshold whose share of errors in the sample is at most alpha."""
    fits = [t for t in STEPS if (~good[probabilities >= t]).mean() <= ALPHA]
    return min(fits, default=None)


def _broken(thresholds: list[float | None]) -> int:
    return sum(t is not None and _true_risk(t) > ALPHA for t in thresholds)


def test_in_a_thousand_draws_the_promise_is_broken_no_more_often_than_delta() -> None:
    generator = np.random.default_rng(7)
    worlds = [_world(generator) for _ in range(DRAWS)]
    ours = [risk_controlled(p, good, ALPHA, DELTA).threshold for p, good in worlds]
    assert sum(t is not None for t in ours) > 200  # a rule that always abstains proves nothing
    assert binomtest(_broken(ours), DRAWS, DELTA, alternative="greater").pvalue > 0.001
    # The same test catches a rule that takes the sample's share at its word.
    naive = [_naive(p, good) for p, good in worlds]
    assert binomtest(_broken(naive), DRAWS, DELTA, alternative="greater").pvalue < 0.001
