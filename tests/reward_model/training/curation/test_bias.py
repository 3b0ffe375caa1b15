from __future__ import annotations

from collections.abc import Callable

import pytest
from scipy.stats import binom

from reward_model.labels import Pair
from reward_model.training.curation.bias import length_bias, position_bias


def test_position_bias_counts_decided_pairs_of_known_order(pair: Callable[..., Pair]) -> None:
    pairs = [pair(str(i), shown_first="chosen", source="a") for i in range(9)]
    pairs += [pair("x", shown_first="rejected", source="b"), pair("t", shown_first="chosen", outcome="tie"), pair("u")]
    found = position_bias(pairs)
    assert (found["pairs"], found["winner_first"], found["order_unknown"]) == (10, 0.9, 1)
    # Two-sided: 0, 1, 9 or 10 heads of 10.
    assert found["p_value"] == pytest.approx(22 / 1024)
    # statsmodels.stats.proportion.proportion_confint(9, 10, method="wilson")
    assert found["winner_first_ci"] == pytest.approx([0.5958, 0.9821], abs=1e-4)
    assert found["by_source"]["a"]["winner_first"] == 1.0
    assert found["by_source"]["a"]["p_value"] == pytest.approx(2 * binom.pmf(9, 9, 0.5))
    assert found["by_source"]["b"] == {
        "pairs": 1,
        "winner_first": 0.0,
        "winner_first_ci": [0.0, 0.7935],
        "p_value": 1.0,
    }


def test_nothing_is_claimed_without_an_order(pair: Callable[..., Pair]) -> None:
    found = position_bias([pair("a")])
    assert (found["pairs"], found["winner_first"], found["p_value"], found["by_source"]) == (0, None, None, {})


def test_length_bias_counts_equal_lengths_half(pair: Callable[..., Pair]) -> None:
    pairs = [
        pair("a", "x" * 7, "y" * 3, bucket="billing"),
        pair("b", "x" * 3, "y" * 3, bucket="billing"),
        pair("c", "x", "y" * 3, bucket="fraud"),
        pair("d", "x" * 7, "y", bucket="fraud", outcome="tie"),
    ]
    found = length_bias(pairs)
    assert (found["pairs"], found["longer_wins"], found["median_ratio"]) == (3, 0.5, 1.0)
    assert found["by_bucket"]["billing"]["longer_wins"] == 0.75
    assert found["by_bucket"]["billing"]["median_ratio"] == 1.5
    assert found["by_bucket"]["fraud"]["longer_wins"] == 0.0
    assert length_bias([])["longer_wins"] is None
