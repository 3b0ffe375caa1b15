from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from reward_model.checkpoint.checkpoint import load_checkpoint
from reward_model.errors import CheckpointError
from reward_model.labels import LabelledReply, Pair, as_completion
from reward_model.training.evaluation.evaluate import (
    evaluate,
    rate_correlation,
    report_on,
    score_pairs,
    score_sequences,
)
from reward_model.training.evaluation.judge import CAVEAT
from reward_model.training.evaluation.report import evaluation_report


def _pair(name: str, chosen: str, rejected: str, **extra: Any) -> Pair:
    prompt = [{"role": "user", "content": "My card was charged"}]
    row = {"id": name, "prompt": prompt, "chosen": chosen, "rejected": rejected, "group": name[0]}
    return Pair.model_validate({**row, **extra})


PAIRS = [
    _pair("a1", "I refund it.", "No.", bucket="billing", margin=2),
    _pair("a2", "I refund it.", "Call us, please, some time", bucket="billing", margin=1),
    _pair("b1", "Please lock the card.", "ok", bucket="fraud", margin=3),
    _pair("c1", "Same", "size", bucket="fraud", outcome="tie"),
]


class Unpacked(nn.Module):
    """Hides that a module is a RewardModel, so that it is given one reply at a time."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, spans: Tensor) -> Tensor:
        scores: Tensor = self.inner(input_ids, spans=spans)
        return scores


def test_packed_and_separate_scores_agree(checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint, torch.float32)
    separate = replace(model, module=Unpacked(model.module))
    np.testing.assert_allclose(score_pairs(model, PAIRS), score_pairs(separate, PAIRS), atol=1e-4)


def test_what_is_the_same_is_scored_once(checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint, torch.float32)
    seen: list[int] = []

    class Counting(Unpacked):
        def forward(self, input_ids: Tensor, spans: Tensor) -> Tensor:
            seen.append(len(input_ids))
            return super().forward(input_ids, spans)

    counting = replace(model, module=Counting(model.module))
    twice = [*PAIRS, *PAIRS]
    np.testing.assert_allclose(score_pairs(counting, twice), score_pairs(model, twice), atol=1e-4)
    # Eight replies, of which "I refund it." stands in two pairs.
    assert sum(seen) == 7


def test_scores_are_clipped_as_in_serving(checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint, torch.float32)
    assert model.manifest is not None
    free = score_pairs(model, PAIRS)
    middle = float(np.median(free))
    clipped = replace(model, manifest=model.manifest.model_copy(update={"score_clip": (middle, 100.0)}))
    np.testing.assert_allclose(score_pairs(clipped, PAIRS), free.clip(middle, 100), atol=1e-5)
    assert free.min() < middle


def test_a_score_that_is_no_number_is_told(checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint, torch.float32)
    scores = score_pairs(model, PAIRS)
    scores[1, 0] = np.nan
    with pytest.raises(CheckpointError, match="no finite score to 1 of 4 pairs, as a2"):
        report_on(model, PAIRS, scores)


def test_the_page_shows_ratings_and_judge_and_survives_ties_alone(checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint, torch.float32)
    scores = score_pairs(model, PAIRS)
    result = report_on(model, PAIRS, scores)
    judged = {"judge": "j", "note": CAVEAT, "pairs": 3, "ties": 1, "unreadable": 0}
    result["judge"] = judged | {"judge_with_model": 0.5, "judge_with_people": None}
    result["ratings"] = {"replies": 12, "prompts": 4, "all": 0.125, "within_prompts": 0.25}
    html = evaluation_report(result, PAIRS, scores, "pairs.jsonl").html()
    assert "not a substitute for people" in html
    assert "0.250 within the 4 prompts, 0.125 over all" in html
    ties = [pair.model_copy(update={"outcome": "tie"}) for pair in PAIRS]
    html = evaluation_report(report_on(model, ties, scores), ties, scores, "pairs.jsonl").html()
    assert "All 4 pairs are ties" in html


def test_pairs_that_truncation_makes_equal_are_counted_apart(checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint, torch.float32)
    long = "refund " * 80
    equal = [_pair("d1", long + "Yes.", long + "No.", margin=9), _pair("d2", "Same.", "Same.", outcome="tie")]
    mixed, plain = evaluate(model, [*equal, *PAIRS]), evaluate(model, PAIRS)
    assert (mixed["equal_after_truncation"], plain["equal_after_truncation"]) == (2, 0)
    assert {**mixed, "equal_after_truncation": 0} == plain
    alone = evaluate(model, equal)
    assert (alone["equal_after_truncation"], alone["pairs"], alone["ties"], alone["accuracy"]) == (2, 0, 0, None)
    html = evaluation_report(alone, [], np.zeros((0, 2)), "pairs.jsonl").html()
    assert "2 pairs are in no figure: after truncation both of their replies are the same tokens" in html
    separate = replace(model, module=Unpacked(model.module))
    assert evaluate(separate, equal)["equal_after_truncation"] == 2


def test_sequences_keep_their_order_whatever_the_batches(checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint, torch.float32)
    sequences = [[5] * (1 + 37 * i % 300) for i in range(60)]
    alone = [model.score([ids]).item() for ids in sequences]
    np.testing.assert_allclose(score_sequences(model, sequences), alone, atol=1e-4)


def test_the_report_is_complete_and_right(checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint, torch.float32)
    report = evaluate(model, PAIRS)
    assert list(report) == [
        "orm",
        "equal_after_truncation",
        "pairs",
        "ties",
        "accuracy",
        "accuracy_ci",
        "longer_wins",
        "by_bucket",
        "by_risk",
        "by_origin",
        "by_length",
        "by_failure_mode",
        "length_controlled",
        "random",
        "mean_gap",
        "spearman",
        "calibration",
    ]
    assert report["by_origin"]["unknown over unknown"]["pairs"] == 3
    assert report["mean_gap"]["ties"] is not None
    scores = score_pairs(model, PAIRS)
    differences = scores[:3, 0] - scores[:3, 1]
    assert (report["orm"], report["pairs"], report["ties"]) == ("tiny@1", 3, 1)
    assert report["accuracy"] == pytest.approx((differences > 0).mean(), abs=1e-4)
    assert report["longer_wins"] == pytest.approx(2 / 3, abs=1e-4)
    assert {name: figures["pairs"] for name, figures in report["by_length"].items()} == {
        "winner_longer": 2,
        "winner_shorter": 1,
    }
    assert set(report["by_bucket"]) == {"billing", "fraud"}
    assert report["spearman"] == pytest.approx(spearmanr([2, 1, 3], differences).statistic, abs=1e-4)
    assert report["calibration"] is None


def test_ratings_are_correlated_within_prompts_too(checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint, torch.float32)
    form = model.formatter
    rows = []
    for group in range(4):
        for index in range(3):
            row = {"id": f"{group}.{index}", "group": str(group), "prompt": [{"role": "user", "content": f"q{group}"}]}
            reply = {**row, "completion": f"reply {index} {group}", "acceptable": False, "rating": 1 + index}
            rows.append(LabelledReply.model_validate(reply))
    scores = np.array(
        [
            model.score([form.prompt_ids(r.prompt) + form.completion_ids(as_completion(r.completion))]).item()
            for r in rows
        ]
    )
    centred = (scores.reshape(4, 3) - scores.reshape(4, 3).mean(1, keepdims=True)).ravel()
    found = rate_correlation(model, rows)
    assert (found["replies"], found["prompts"]) == (12, 4)
    assert found["all"] == pytest.approx(spearmanr(scores, np.tile([1, 2, 3], 4)).statistic, abs=1e-3)
    assert found["within_prompts"] == pytest.approx(spearmanr(centred, np.tile([-1, 0, 1], 4)).statistic, abs=1e-3)


def test_without_margins_there_is_no_spearman(checkpoint: Path) -> None:
    model = load_checkpoint(checkpoint, torch.float32)
    pairs = [pair.model_copy(update={"margin": None}) for pair in PAIRS]
    assert evaluate(model, pairs)["spearman"] is None
