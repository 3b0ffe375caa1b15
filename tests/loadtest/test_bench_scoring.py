"""What the scoring benchmark computes from its measurements; a run of it against a scorer that is there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from loadtest.bench.cli import bench_app
from loadtest.bench.paired import ratio
from loadtest.bench.scoring import same_winner, useful_flops


def test_a_ratio_of_paired_rounds() -> None:
    chance = np.random.default_rng(1)
    theirs = chance.uniform(1, 2, size=15)
    ours = theirs * chance.normal(0.5, 0.05, size=15)
    found = ratio(list(ours), list(theirs))
    assert found.median == pytest.approx(np.median(ours / theirs))
    expected = stats.bootstrap((ours / theirs,), np.median, method="percentile", n_resamples=20_000, rng=2)
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.01)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.01)
    assert found.rounds == 15
    with pytest.raises(ValueError, match="no pairs"):
        ratio([], [])


def test_useful_operations_by_hand() -> None:
    # One layer of width 4 with 2 heads of 2 and 1 key head, inner width 8: q 16, k 8, v 8, o 16, three of 32.
    config = {"hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config["num_key_value_heads"] = 1
    weights = 16 + 8 + 8 + 16 + 96
    tokens, pairs = 10 + 8 * 5, 50 + 8 * (50 + 12.5)
    assert useful_flops(config, 10, 5) == 2 * weights * tokens + 4 * 4 * pairs


def test_winners_agree_whatever_is_added_to_all_scores() -> None:
    ours = [[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]]
    theirs = [[11.0, 12.0, 13.0], [2.9, 1.0, 3.0]]
    found = same_winner(ours, theirs)
    assert found["share"] == 0.5
    assert same_winner(ours, [[score + 5 for score in row] for row in ours])["noise"] == pytest.approx(0)


def test_what_cannot_be_measured_is_said_first(tmp_path: Path) -> None:
    done = CliRunner().invoke(bench_app, ["scoring", str(tmp_path)])
    assert done.exit_code == 2
    assert "config.json" in done.output
    (tmp_path / "config.json").write_text(json.dumps({}))
    done = CliRunner().invoke(bench_app, ["scoring", str(tmp_path), "--without", "nobody"])
    assert done.exit_code == 2
    assert "nobody" in done.output
