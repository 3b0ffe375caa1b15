from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap

from reward_model.errors import BadInput
from reward_model.labels import Pair
from reward_model.training.release.gate import bounds, compare, judge, pairs_needed

WINS, LOSES, EQUAL = (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)


def _pair(number: int, bucket: str = "billing", **more: Any) -> Pair:
    row = {"id": str(number), "prompt": [{"role": "user", "content": "x"}], "chosen": "c", "rejected": "r"}
    return Pair.model_validate({**row, "group": f"g{number}", "bucket": bucket, **more})


def _report(*blocks: tuple[int, tuple[float, float], tuple[float, float], dict[str, Any]], **how: Any) -> Any:
    """Blocks of (pairs, the challenger's scores, the champion's, fields)."""
    pairs, new, old = list[Any](), list[tuple[float, float]](), list[tuple[float, float]]()
    for count, challenger, champion, fields in blocks:
        for _ in range(count):
            pairs.append(_pair(len(pairs), **fields))
            new.append(challenger)
            old.append(champion)
    return compare(pairs, np.array(new), np.array(old), draws=2000, **how)


def test_a_better_challenger_passes_with_the_figures_of_each_bucket() -> None:
    report = _report(
        (60, WINS, WINS, {}), (20, WINS, LOSES, {}), (10, EQUAL, LOSES, {}), (40, WINS, LOSES, {"bucket": "chat"})
    )
    assert (report["passed"], report["reasons"], report["warnings"], report["pairs"]) == (True, [], [], 130)
    billing = report["by_bucket"]["billing"]
    # 60 and 20 right and 10 half right of 90, against 60.
    assert (billing["challenger"], billing["champion"], billing["difference"]) == (0.9444, 0.6667, 0.2778)
    assert (billing["high_risk"], billing["verdict"], billing["pairs"], billing["groups"]) == (True, "held", 90, 90)
    assert report["by_bucket"]["chat"]["high_risk"] is False
    assert report["overall"] == {"challenger": 0.9615, "champion": 0.4615, "difference": 0.5}


def test_a_regression_in_one_high_risk_bucket_is_refused_whatever_the_rest_does() -> None:
    report = _report(
        (200, WINS, LOSES, {"bucket": "billing"}),
        (170, WINS, WINS, {"bucket": "fraud"}),
        (30, LOSES, WINS, {"bucket": "fraud"}),
    )
    assert report["passed"] is False
    assert report["reasons"] == ["fraud: the challenger is worse, 0.85 against 1.0 on 200 pairs"]
    assert report["overall"]["difference"] > 0


def test_a_loss_smaller_than_the_margin_is_a_regression_too_when_it_is_certain() -> None:
    report = _report((3900, WINS, WINS, {}), (100, LOSES, WINS, {}))
    assert report["by_bucket"]["billing"]["verdict"] == "regressed"
    assert report["by_bucket"]["billing"]["bounds"][0] > -0.05


def test_a_regression_where_risk_is_normal_is_a_warning() -> None:
    report = _report((80, WINS, WINS, {}), (100, LOSES, WINS, {"bucket": "chat"}))
    assert report["passed"] is True
    assert report["warnings"] == ["chat: the challenger is worse, 0.0 against 1.0 on 100 pairs"]


def test_too_few_pairs_prove_nothing_and_it_is_said_how_many_would() -> None:
    report = _report((20, (2.0, 1.0), WINS, {}))
    figures = report["by_bucket"]["billing"]
    # No disagreement at all: the rule of three asks for 3 / 0.05 groups.
    assert (report["passed"], figures["verdict"], figures["pairs_needed"]) == (False, "unproven", 60)
    assert "about 60 would" in report["reasons"][0]
    assert _report((65, (2.0, 1.0), WINS, {}))["passed"] is True
    assert _report((20, (2.0, 1.0), WINS, {}), margin=0.2)["passed"] is True


def test_the_same_scores_cannot_have_regressed() -> None:
    assert _report((2, LOSES, LOSES, {}))["by_bucket"]["billing"]["verdict"] == "held"


def test_what_counts_as_high_risk() -> None:
    blocks = [(80, WINS, WINS, {"bucket": "billing"}), (80, WINS, WINS, {"bucket": "visas"})]
    risky = (30, LOSES, WINS, {"bucket": "visas", "risk": "high"})
    assert _report(*blocks)["passed"] is True
    # Pairs that say so are judged apart from the rest of their bucket.
    report = _report(*blocks, risky)
    assert report["by_bucket"]["visas (high risk)"]["verdict"] == "regressed"
    assert report["by_bucket"]["visas"]["verdict"] == "held"
    named = _report(
        (80, WINS, WINS, {"bucket": "billing"}), (20, LOSES, WINS, {"bucket": "visas"}), high_risk=["visas"]
    )
    assert named["by_bucket"]["billing"]["high_risk"] is False
    assert named["passed"] is False
    absent = _report(*blocks, high_risk=["billing", "loans"])
    assert absent["reasons"] == [
        "loans: 0 pairs in 0 groups do not show that it is less than 0.05 worse (None against None); were it as "
        "good, about 60 would"
    ]
    with pytest.raises(BadInput, match="none of the pairs is of high risk"):
        _report((80, WINS, WINS, {"bucket": "chat"}))
    with pytest.raises(BadInput, match="margin must be above 0"):
        _report((80, WINS, WINS, {}), margin=0)


def test_ties_between_replies_are_left_out() -> None:
    report = _report((80, WINS, WINS, {}), (500, LOSES, WINS, {"outcome": "tie"}))
    assert (report["passed"], report["pairs"]) == (True, 80)


def test_bounds_are_the_percentile_bootstraps_over_the_groups_and_one_more() -> None:
    generator = np.random.default_rng(4)
    sizes = generator.integers(1, 6, size=50).astype(float)
    differences = np.array([generator.integers(-size, size + 1) for size in sizes.astype(int)], dtype=float)

    def expected(unseen: float) -> Any:
        d, n = np.append(differences, unseen * sizes.mean()), np.append(sizes, sizes.mean())
        return bootstrap(
            (d, n),
            lambda d, n, axis: d.sum(axis=axis) / n.sum(axis=axis),
            paired=True,
            vectorized=True,
            method="percentile",
            confidence_level=0.9,
            n_resamples=20_000,
            rng=np.random.default_rng(0),
        ).confidence_interval

    low, high = bounds(differences, sizes, draws=20_000, seed=1)
    assert low == pytest.approx(expected(-1).low, abs=0.01)
    assert high == pytest.approx(expected(1).high, abs=0.01)
    assert bounds(differences, sizes, draws=500, seed=1) == bounds(differences, sizes, draws=500, seed=1)


def test_pairs_of_one_dialogue_are_resampled_together() -> None:
    wrong = np.zeros(200)
    wrong[:10] = 1
    alone = judge(1 - wrong, np.ones(200), [str(i) for i in range(200)], 0.05, 2000, 0, False)
    together = judge(1 - wrong, np.ones(200), [str(i // 10) for i in range(200)], 0.05, 2000, 0, False)
    assert (alone["groups"], together["groups"]) == (200, 20)
    assert alone["verdict"] == "regressed"
    assert together["verdict"] == "unproven"


def test_a_worse_challenger_passes_in_at_most_one_of_twenty_sets() -> None:
    """Worse by exactly the margin, at several sizes: the share that is held must not exceed 5 % but by chance."""
    generator = np.random.default_rng(2)
    for groups, loses, wins in [(20, 0.05, 0.0), (60, 0.10, 0.05), (150, 0.15, 0.10)]:
        draws = generator.choice([-1.0, 1.0, 0.0], p=[loses, wins, 1 - loses - wins], size=(400, groups))
        held = sum(bounds(row, np.ones(groups), draws=500)[0] > -0.05 for row in draws)
        assert held <= 34  # the 99.9th percentile of a binomial of 400 at 0.05


def test_as_many_pairs_as_it_asks_for_are_enough_four_times_in_five() -> None:
    generator = np.random.default_rng(3)
    few = np.array([-1.0] * 5 + [1.0] * 5 + [0.0] * 90)
    needed = pairs_needed(few, np.ones(100), 0.05)
    # (1.645 + 0.842)^2 * 0.1 / 0.05^2 = 247 and 60 for the unseen group.
    assert needed == 308
    draws = generator.choice(few, size=(200, needed))
    held = sum(bounds(row, np.ones(needed), draws=500)[0] > -0.05 for row in draws)
    assert 0.75 <= held / 200 <= 0.95
    assert pairs_needed(few * 3, np.full(100, 3.0), 0.05) == pytest.approx(3 * needed, abs=3)
