"""Both cases of the simulation, and its parts by hand."""

from __future__ import annotations

import numpy as np

from reward_model.training.winner_simulation import World, simulate, table, threshold_for


def test_winners_are_the_best_of_each_prompt() -> None:
    world = World(np.array([[1.0, 3.0], [5.0, 2.0]]), np.array([[True, False], [True, False]]))
    scores, labels = world.winners()
    assert scores.tolist() == [3.0, 5.0]
    assert labels.tolist() == [False, True]


def test_the_threshold_is_the_lowest_that_keeps_the_share() -> None:
    # 40 right above, then right and wrong in turn: 40 of 40, then (40 + k) of (40 + 2 k) >= 0.8 up to k = 13.
    labels = np.array([True] * 40 + [False, True] * 30)
    scores = np.arange(len(labels), 0, -1).astype(float)
    found = threshold_for(scores, labels, 0.8)
    kept = scores >= found
    assert labels[kept].mean() >= 0.8
    assert labels[scores >= found - 1].mean() < 0.8
    assert threshold_for(scores, np.zeros(100, dtype=bool), 0.8) == float("inf")


def test_independent_candidates_need_no_correction() -> None:
    result = simulate("independent", seeds=8, prompts=1500)
    # From all candidates the promise is kept: winners lie in the upper part, where precision is higher.
    assert result["naive"]["low"] >= result["wanted"] - 0.01
    assert result["winner_aware"]["low"] >= result["wanted"] - 0.02


def test_a_shared_prompt_effect_breaks_the_naive_threshold_and_not_the_winner_aware_one() -> None:
    result = simulate("shared", seeds=8, prompts=1500)
    assert result["naive"]["high"] < result["wanted"] - 0.03
    assert result["winner_aware"]["low"] >= result["wanted"] - 0.02
    assert "| shared | 0.80 |" in table([result])
