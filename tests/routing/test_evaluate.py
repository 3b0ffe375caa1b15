"""Thresholds and rates worked out by hand, calibration against scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from routing.train.data import Example
from routing.train.evaluate import (
    calibration_error,
    choose_threshold,
    latency,
    measure,
    rate,
    recall_at,
)


def examples(labels: Sequence[int], source: str = "s") -> list[Example]:
    return [Example("t", label, source, "g", "test") for label in labels]


def test_the_threshold_lets_the_wanted_share_through() -> None:
    probabilities = np.arange(200) / 200
    threshold = choose_threshold(probabilities, examples([0] * 200), 0.05)
    # 0.95 to 0.995 are ten in two hundred; 0.95 itself sits on the limit.
    assert threshold == pytest.approx(0.9501, abs=1.1e-4)
    assert (probabilities >= threshold).mean() <= 0.05


def test_the_hardest_source_decides_and_small_ones_do_not_count() -> None:
    easy, hard, small = np.zeros(200), np.full(200, 0.4), np.full(199, 0.9)
    threshold = choose_threshold(
        np.concatenate([easy, hard, small]),
        examples([0] * 200, "easy") + examples([0] * 200, "hard") + examples([0] * 199, "small"),
        0.05,
    )
    assert threshold == pytest.approx(0.4001, abs=1.1e-4)


def test_without_a_large_source_all_texts_count_together() -> None:
    small = examples([0] * 50, "a") + examples([0] * 50, "b")
    assert choose_threshold(np.arange(100) / 100, small, 0.05) == pytest.approx(0.9501, abs=1.1e-4)


def test_texts_told_apart_without_a_mistake_do_not_take_the_threshold_to_zero() -> None:
    assert choose_threshold(np.full(300, 1e-6), examples([0] * 300), 0.05) == pytest.approx(0.1001, abs=1.1e-4)


def test_measure_by_source() -> None:
    probabilities = np.array([0.9, 0.2, 0.1, 0.7])
    measured = measure(probabilities, examples([1, 2, 0, 0]), 0.5)["s"]
    assert measured["recall"]["value"] == 0.5
    assert measured["false_positive_rate"]["value"] == 0.5


def test_wilson_interval_of_nine_in_ten() -> None:
    # (p + z2/2n +- z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n), z = 1.96, p = 0.9, n = 10.
    found = rate(np.array([True] * 9 + [False]))
    assert found == {"value": 0.9, "ci": [0.5958, 0.9821], "n": 10}
    assert rate(np.array([], dtype=bool)) is None


def test_recall_at_a_rate() -> None:
    calm = np.arange(20) / 20
    # 5 % of twenty is one text, so the limit is the second highest, 0.90; but "at most" keeps to the highest, 0.95.
    assert recall_at(np.array([0.96, 0.94, 0.5, 0.1]), calm, 0.05) == 0.25
    assert recall_at(np.array([]), calm, 0.05) is None


def test_calibration_error_by_hand() -> None:
    probabilities, truth = np.array([0.05, 0.05, 0.95, 0.95]), [0, 0, 1, 0]
    found = calibration_error(probabilities, examples(truth))
    # Half the texts are off by 0.05, the other half by 0.45.
    assert found["ece"] == pytest.approx(0.25)
    assert found["brier"] == pytest.approx(brier_score_loss(truth, probabilities), abs=1e-4)


def test_latency_counts_every_text() -> None:
    seen: list[str] = []
    found = latency(seen.append, ["a"] * 30)
    assert len(seen) == 20 + 30
    assert 0 <= found["p50_ms"] <= found["p95_ms"]
