"""The head's first weights against scikit-learn on states computed one reply at a time."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from reward_model.labels import Pair
from reward_model.model.reward_model import RewardModel, load_backbone
from reward_model.text.formatting import Completion, Formatter
from reward_model.training.fit.head_start import start_head
from reward_model.training.fit.trainer import rows_of, score_rows

WORDS = ["bill", "card", "refund", "fee", "please", "charged"]


def _pairs(count: int, seed: int) -> list[Pair]:
    random = Random(seed)
    prompts = [[{"role": "user", "content": " ".join(random.choices(WORDS, k=3))}] for _ in range(count)]
    return [
        Pair.model_validate(
            {
                "id": str(i),
                "group": str(i),
                "prompt": prompt,
                "chosen": f"good {random.choice(WORDS)}",
                "rejected": f"evil {random.choice(WORDS)}",
            }
        )
        for i, prompt in enumerate(prompts)
    ]


def _state(model: RewardModel, formatter: Formatter, pair: Pair, reply: Any) -> np.ndarray:
    ids = formatter.prompt_ids(pair.prompt) + formatter.completion_ids(Completion(content=reply))
    with torch.inference_mode():
        states = model.backbone(input_ids=torch.tensor([ids])).last_hidden_state
    state: np.ndarray = states[0, -1].numpy()
    return state


@pytest.mark.parametrize("ties", [False, True])
def test_the_head_is_the_regression_on_frozen_states(base: Path, formatter: Formatter, ties: bool) -> None:
    model = RewardModel(load_backbone(base, 2, torch.float32), 32)
    train, validation = _pairs(40, 1), _pairs(20, 2)
    if ties:
        train[0] = train[0].model_copy(update={"outcome": "tie"})
    rows = [(pairs, rows_of(pairs, formatter, 256)) for pairs in (train, validation)]
    said = start_head(model, *rows)
    decided = [pair for pair in train if pair.outcome == "win"]
    gaps = np.array([_state(model, formatter, p, p.chosen) - _state(model, formatter, p, p.rejected) for p in decided])
    scale = gaps.std(0) + 1e-6
    regression = LogisticRegression(C=said["penalty_c"], fit_intercept=False, max_iter=500)
    regression.fit(np.concatenate([gaps, -gaps]) / scale, np.repeat([1, 0], len(gaps)))
    assert model.head.weight[0].detach().numpy() == pytest.approx(regression.coef_[0] / scale, rel=0.02, abs=1e-4)
    scores = score_rows(model, rows[1][1])
    assert (scores[:, 0] > scores[:, 1]).mean() == pytest.approx(said["head_start_accuracy"], abs=1e-4)
    assert said["head_start_accuracy"] >= 0.9
