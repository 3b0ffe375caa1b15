"""Verdicts as they come miss what is true of all answers; weighted by 1/chance they do not."""

from __future__ import annotations

from scipy.stats import binomtest

from tests.benchmarks.review_simulation import measure


def test_the_naive_estimate_misses_and_the_weighted_one_does_not() -> None:
    draws = 200
    found = measure(draws, seed=1)
    true, naive, weighted = found["true"], found["naive"], found["weighted"]
    assert abs(naive["acceptable"] - true["acceptable"]) > 0.05
    assert naive["intervals_that_hold"] < 0.05
    assert naive["ece"] < 0.6 * true["ece"], "the calibrator looks right where it is looked at"
    assert abs(weighted["acceptable"] - true["acceptable"]) < 0.005
    assert abs(weighted["ece"] - true["ece"]) < 0.02
    holds = round(weighted["intervals_that_hold"] * draws)
    assert binomtest(holds, draws, 0.95, alternative="less").pvalue > 0.001
