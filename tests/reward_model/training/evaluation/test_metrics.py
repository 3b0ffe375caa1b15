from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, spearmanr
from sklearn.metrics import brier_score_loss

from reward_model.estimates import brier, expected_calibration_error, wilson
from reward_model.labels import Pair
from reward_model.training.evaluation.metrics import (
    acceptance_figures,
    clustered_interval,
    pair_figures,
    rank_correlation,
)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (7, 10), (431, 458)])
def test_wilson_is_scipy_s(successes: int, trials: int) -> None:
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson(successes, trials) == pytest.approx([expected.low, expected.high], abs=6e-5)


def test_nothing_tried_says_nothing() -> None:
    assert wilson(0, 0) == [0.0, 1.0]


def _pair(bucket: str, chosen: str, rejected: str, outcome: str = "win") -> Pair:
    prompt = [{"role": "user", "content": "x"}]
    row = {"id": "i", "prompt": prompt, "chosen": chosen, "rejected": rejected, "group": chosen}
    return Pair.model_validate({**row, "bucket": bucket, "outcome": outcome})


def test_figures_of_five_pairs_by_hand() -> None:
    pairs = [
        _pair("billing", "long reply", "short"),
        _pair("billing", "same", "size"),
        _pair("fraud", "no", "a long one"),
        _pair("fraud", "yes!", "no"),
        _pair("fraud", "tied", "tied too", "tie"),
    ]
    scores = np.array([[1, 0], [2, 3], [4, 4], [1, 0], [0, 9]], dtype=np.float32)
    figures = pair_figures(pairs, scores)
    assert (figures["pairs"], figures["ties"]) == (4, 1)
    assert figures["accuracy"] == 0.625  # 1 + 0 + 0.5 + 1, of 4
    assert figures["longer_wins"] == 0.625  # 1 + 0.5 + 0 + 1, of 4
    assert figures["accuracy_ci"] == pytest.approx([0.2194, 0.9081], abs=1e-4)  # 0.5638 -+ 0.3443
    assert figures["by_bucket"]["billing"]["accuracy"] == 0.5
    assert figures["by_bucket"]["fraud"] == {
        "pairs": 2,
        "accuracy": 0.75,
        "accuracy_ci": figures["by_bucket"]["fraud"]["accuracy_ci"],
        "longer_wins": 0.5,
    }


def test_figures_of_no_decided_pair_are_unknown() -> None:
    figures = pair_figures([_pair("b", "x", "y", "tie")], np.zeros((1, 2)))
    assert (figures["accuracy"], figures["accuracy_ci"], figures["longer_wins"]) == (None, None, None)
    assert figures["by_bucket"] == {}


def test_ece_by_hand() -> None:
    # Bin [0.2, 0.3): mean 0.25, half positive. Bin [0.9, 1]: mean 0.95, all positive. (2 x 0.25 + 2 x 0.05) / 4.
    probabilities = np.array([0.22, 0.28, 0.9, 1.0])
    outcomes = np.array([0.0, 1.0, 1.0, 1.0])
    assert expected_calibration_error(probabilities, outcomes) == pytest.approx(0.15)


def test_brier_is_scikit_learn_s() -> None:
    generator = np.random.default_rng(0)
    probabilities, outcomes = generator.random(50), (generator.random(50) > 0.5).astype(float)
    assert brier(probabilities, outcomes) == pytest.approx(brier_score_loss(outcomes, probabilities))


def test_rank_correlation_is_scipy_s_and_unknown_without_variation() -> None:
    left, right = np.array([1.0, 2.0, 2.0, 5.0]), np.array([0.1, 0.0, 0.4, 0.9])
    assert rank_correlation(left, right) == pytest.approx(spearmanr(left, right).statistic, abs=1e-4)
    assert rank_correlation(np.ones(4), right) is None
    assert rank_correlation(left[:1], right[:1]) is None


def test_length_control_takes_the_length_out() -> None:
    from math import log

    from reward_model.training.evaluation.metrics import length_controlled

    generator = np.random.default_rng(0)
    pairs, scores = [], []
    prompt = [{"role": "user", "content": "q"}]
    for i in range(4000):
        # A model that likes length, and people's choice: log-odds 1.0 for what the model prefers, 0.8 for each unit of
        # log length. Length left out, the model would be credited with both.
        gap = generator.normal()
        choice = 1 if gap + generator.normal() > 0 else -1
        wins = generator.random() < 1 / (1 + np.exp(-(1.0 * choice + 0.8 * gap)))
        lengths = (round(200 * np.exp(gap / 2)), round(200 * np.exp(-gap / 2)))
        sides = [("x" * length, side) for length, side in zip(lengths, (choice, -choice), strict=True)]
        (chosen, high), (rejected, low) = sides if wins else sides[::-1]
        row = {"id": str(i), "group": str(i), "prompt": prompt, "chosen": chosen, "rejected": rejected}
        pairs.append(Pair.model_validate(row))
        scores.append([high, low])
    found = length_controlled(pairs, np.array(scores, dtype=float))
    assert found is not None
    assert log(found / (1 - found)) == pytest.approx(1.0, abs=0.12)


def test_length_control_at_its_ends() -> None:
    from reward_model.training.evaluation.metrics import length_controlled

    pairs = [_pair("b", "yes", "a longer no"), _pair("b", "a longer yes", "no"), _pair("b", "right", "write")]
    assert length_controlled(pairs, np.array([[1.0, 0.0]] * 3)) == 1.0
    assert length_controlled(pairs, np.array([[0.0, 1.0]] * 3)) == 0.0
    assert length_controlled(pairs, np.zeros((3, 2))) is None
    # The model always picks the longer one, people do half the time.
    mirrored = [_pair("b", "short", "a longer one"), _pair("b", "a longer one", "short")]
    assert length_controlled(mirrored, np.array([[0.0, 1.0], [1.0, 0.0]])) == pytest.approx(0.5, abs=1e-3)
    # Without any difference of length it is the accuracy.
    even = [_pair("b", "yes", "not")] * 4
    assert length_controlled(even, np.array([[1.0, 0.0]] * 3 + [[0.0, 1.0]])) == pytest.approx(0.75, abs=1e-3)


def test_an_interval_counts_dialogues_not_pairs() -> None:
    values = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    alone = clustered_interval(values, list("abcdef"))
    assert alone == wilson(4, 6)
    # Each value twice, in one dialogue: 12 pairs say no more than 6.
    assert clustered_interval(np.repeat(values, 2), [name for name in "abcdef" for _ in range(2)]) == alone
    # Where all agree, a dialogue counts as one.
    assert clustered_interval(np.ones(30), [str(i // 10) for i in range(30)]) == wilson(3, 3)
    assert clustered_interval(np.zeros(0), []) == [0.0, 1.0]


def test_figures_of_one_dialogue_are_clustered() -> None:
    pairs = [_pair("billing", "yes", "no") for _ in range(40)]
    scores = np.tile([[1.0, 0.0]], (40, 1))
    groups = [pair.model_copy(update={"group": str(i)}) for i, pair in enumerate(pairs)]
    together = [pair.model_copy(update={"group": str(i // 10)}) for i, pair in enumerate(pairs)]
    assert pair_figures(groups, scores)["accuracy_ci"] == wilson(40, 40)
    assert pair_figures(together, scores)["accuracy_ci"] == wilson(4, 4)


def test_how_well_scores_say_what_would_be_sent() -> None:
    # Three of four (acceptable, unacceptable) are ordered rightly; -1 and 0.5 stand on the wrong side of zero.
    found = acceptance_figures([True, True, False, False], [2.0, -1.0, 0.5, -3.0])
    assert found == {
        "replies": 4,
        "acceptable": 2,
        "auc": 0.75,
        # Of 1 - 0.880797, 1 - 0.268941, 0.622459 and 0.047426, the mean square.
        "brier": 0.2346,
        "right_at_zero": 0.5,
        "majority": 0.5,
    }
    assert acceptance_figures([False, False], [1.0, 2.0])["auc"] is None
