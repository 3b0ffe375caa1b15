from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from reward_model.checkpoint import LoadedModel
from reward_model.errors import BadInput
from reward_model.formatting import Formatter
from reward_model.training.calibrate import (
    FOLDS,
    Labelled,
    calibrate,
    cross_validated,
    fit_platt,
    shared_selection,
    winners,
)
from reward_model.training.data import LabelledReply, as_completion

SELECTION = {"n": 4, "policy": "tiny", "temperature": 0.8}


class LengthModel(nn.Module):
    """Scores a reply by its place: the longer the sequence, the higher, by `sign`."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, input_ids: Tensor, spans: Tensor) -> Tensor:
        return self.sign * (spans[:, 1] % input_ids.shape[1]).float() / 10


def _model(formatter: Formatter, sign: float = 1.0) -> LoadedModel:
    return LoadedModel("toy@1", formatter, LengthModel(sign), None, None, torch.device("cpu"))


def _reply(group: int, index: int, words: int, acceptable: bool, **changes: Any) -> LabelledReply:
    row = {
        "id": f"{group}.{index}",
        "prompt": [{"role": "user", "content": f"q{group}"}],
        "completion": "x" * words,
        "acceptable": acceptable,
        "group": f"g{group}",
        "bucket": "billing" if group % 2 else "fraud",
        "selection": SELECTION,
    }
    return LabelledReply.model_validate({**row, **changes})


@pytest.fixture
def replies() -> list[LabelledReply]:
    """40 prompts with 4 replies each; the longer a reply, the likelier it is acceptable."""
    generator = np.random.default_rng(3)
    made = []
    for group in range(40):
        for index in range(4):
            words = int(generator.integers(1, 40))
            made.append(_reply(group, index, words, bool(generator.random() < 1 / (1 + np.exp(3 - words / 8)))))
    return made


def test_platt_is_the_minimum_of_his_loss() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=200)
    labels = (generator.random(200) < 1 / (1 + np.exp(1 - 2 * scores))).astype(float)
    high, low = (labels.sum() + 1) / (labels.sum() + 2), 1 / (200 - labels.sum() + 2)
    targets = np.where(labels == 1, high, low)

    def loss(parameters: Any) -> float:
        z = parameters[0] * scores + parameters[1]
        return float(np.sum(targets * np.logaddexp(0, -z) + (1 - targets) * np.logaddexp(0, z)))

    expected = minimize(loss, [1.0, 0.0], tol=1e-10).x
    assert list(fit_platt(scores, labels)) == pytest.approx(expected, abs=1e-3)


def test_a_separable_set_keeps_a_finite_slope() -> None:
    fit = fit_platt(np.array([-1.0, -2.0, 1.0, 2.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert 0 < fit.slope < 10


def test_the_winner_is_what_serving_selects() -> None:
    replies = [
        _reply(0, 0, 5, True, completion_tokens=9),
        _reply(0, 1, 6, True, completion_tokens=4),
        _reply(0, 2, 7, True, completion_tokens=5),
        _reply(1, 0, 5, True),
        _reply(1, 1, 5, True, prompt=[{"role": "user", "content": "a paraphrase"}]),
    ]
    scores = np.array([2.0, 2.0 - 5e-7, 1.0, -3.0, -4.0])
    # The first two tie within 1e-6 and the second has fewer tokens; a paraphrase is a prompt of its own.
    assert winners(scores, replies).tolist() == [False, True, False, True, True]


def test_a_reply_that_was_cut_off_wins_only_among_its_like() -> None:
    cut, ended = {"finish_reason": "length"}, {"finish_reason": "stop"}
    replies = [
        _reply(0, 0, 5, True, **cut),
        _reply(0, 1, 6, True, **ended),
        _reply(1, 0, 5, True, **cut),
        _reply(1, 1, 6, True, **cut),
    ]
    assert winners(np.array([3.0, 1.0, 3.0, 1.0]), replies).tolist() == [False, True, True, False]


def test_a_calibrator_says_what_it_stands_on(formatter: Formatter, replies: list[LabelledReply]) -> None:
    calibration = calibrate(_model(formatter), replies, bootstraps=50)
    assert (calibration.orm, calibration.method, calibration.event) == ("toy@1", "platt", "acceptable")
    assert calibration.selection.model_dump() == {**SELECTION, "stopping_rule": "all_scored"}
    assert calibration.slope is not None
    low, high = calibration.fitted_on["slope_ci"]
    assert 0 < low < calibration.slope < high
    fitted_on = calibration.fitted_on
    assert fitted_on["prompts"] == 40
    assert fitted_on["buckets"] == {"billing": 80, "fraud": 80}
    # 40 winners are too few to stand on alone.
    assert (fitted_on["population"], calibration.labels) == ("candidates", 160)
    assert calibration.brier == fitted_on["compared"]["candidates"]["brier"]
    assert calibration.brier_ci is not None
    assert calibration.brier is not None
    assert calibration.brier_ci[0] <= calibration.brier <= calibration.brier_ci[1]
    # A model that knows something beats the base rate.
    assert calibration.brier < fitted_on["compared"]["candidates"]["brier_of_base_rate"] + 0.02


def test_no_group_is_in_its_own_fit() -> None:
    # Each group has its own label and all scores are equal: a fit that saw the group would lean towards it.
    groups = np.arange(FOLDS)
    labels = (groups % 2).astype(float)
    data = Labelled(np.zeros(FOLDS), labels, groups, np.ones(FOLDS, dtype=bool))
    figures = cross_validated(data, "winners", bootstraps=10)
    # Leaving a positive out of 5 + 5 leaves 4 + 5: the smoothed base rate is below one half, and the other way.
    assert figures["brier"] > 0.25


def test_a_model_that_prefers_bad_replies_is_refused(formatter: Formatter, replies: list[LabelledReply]) -> None:
    with pytest.raises(BadInput, match="slope is -"):
        calibrate(_model(formatter, sign=-1.0), replies, bootstraps=10)


def test_labels_that_cannot_calibrate_are_refused(formatter: Formatter, replies: list[LabelledReply]) -> None:
    model = _model(formatter)
    with pytest.raises(BadInput, match="too few"):
        calibrate(model, replies[:40])
    with pytest.raises(BadInput, match="same label"):
        calibrate(model, [reply.model_copy(update={"acceptable": True}) for reply in replies])
    with pytest.raises(BadInput, match="at least 10 groups"):
        calibrate(model, [reply.model_copy(update={"group": "one"}) for reply in replies])


def test_labels_of_two_selection_policies_are_not_mixed(replies: list[LabelledReply]) -> None:
    assert shared_selection(replies).n == 4
    selection = replies[0].selection
    assert selection is not None
    other = replies[0].model_copy(update={"selection": selection.model_copy(update={"n": 8})})
    for wrong in ([*replies, other], [*replies, replies[0].model_copy(update={"selection": None})], []):
        with pytest.raises(BadInput, match="same selection"):
            shared_selection(wrong)


def test_scores_come_from_the_serving_format(formatter: Formatter) -> None:
    model = replace(_model(formatter), id="other@2")
    reply = _reply(0, 0, 3, True)
    sequence = formatter.prompt_ids(reply.prompt) + formatter.completion_ids(as_completion(reply.completion))
    assert model.score([sequence]).item() == pytest.approx((len(sequence) - 1) / 10)
