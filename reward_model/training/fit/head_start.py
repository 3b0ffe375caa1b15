"""Initial weights of the head: a logistic regression on frozen hidden states.

One forward pass over the pairs, no backward one: cheaper than an epoch in which the head learns alone by gradient
descent, and exact. The layers then learn from a head that ranks instead of one that guesses.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reward_model.labels import Pair
from reward_model.model.reward_model import RewardModel
from reward_model.training.fit.packing import PackedRow, batches, collate, collate_apart, one_pair_each

# Inverse strengths of the penalty; validation decides among them.
_STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2)

Floats = NDArray[np.float32]


def start_head(
    model: RewardModel,
    train: tuple[Sequence[Pair], Sequence[PackedRow]],
    validation: tuple[Sequence[Pair], Sequence[PackedRow]],
) -> dict[str, Any]:
    """Fit the shared head in place; pairs and their rows. Returns the penalty chosen and its validation accuracy."""
    gaps = _gaps(model, train[1])[_decided(train[0])]
    held_out = _gaps(model, validation[1])[_decided(validation[0])]
    # Each dimension by its own spread: a few of a language model's are a hundred times larger than the others.
    scale = gaps.std(0) + 1e-6
    fits = [(_regression(gaps / scale, strength) / scale, strength) for strength in _STRENGTHS]
    accuracies = [float((held_out @ weights > 0).mean()) for weights, _ in fits]
    best = int(np.argmax(accuracies))
    with torch.no_grad():
        model.head.weight[0] = torch.from_numpy(fits[best][0])
    return {"penalty_c": fits[best][1], "head_start_accuracy": round(accuracies[best], 4)}


def _regression(gaps: Floats, strength: float) -> Floats:
    """Bradley-Terry on a linear score is logistic regression, without an intercept, on the differences of states."""
    from sklearn.linear_model import LogisticRegression

    both = np.concatenate([gaps, -gaps])
    wins = np.repeat([1, 0], len(gaps))
    fitted = LogisticRegression(C=strength, fit_intercept=False, max_iter=500).fit(both, wins)
    return np.asarray(fitted.coef_[0], dtype=np.float32)


def _decided(pairs: Sequence[Pair]) -> NDArray[np.bool_]:
    return np.array([pair.outcome == "win" for pair in pairs])


@torch.inference_mode()
def _gaps(model: RewardModel, rows: Sequence[PackedRow], token_budget: int = 4096) -> Floats:
    """[pairs, hidden]: the winner's pooled state less the loser's, by TokenPair.pair."""
    dtype: Any = model.backbone.dtype
    # An adapter that has learned nothing yet adds nothing but its cost.
    disabled = getattr(model.backbone, "disable_adapter", nullcontext)
    found = np.zeros((sum(len(row.pairs) for row in rows), model.head.in_features), dtype=np.float32)
    if model.encoder:
        rows = one_pair_each(rows)
    autocast = torch.autocast(model.head.weight.device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
    with autocast, disabled():
        for chunk in batches(rows, token_budget):
            batch = collate_apart(chunk, 0) if model.encoder else collate(chunk, 0, dtype)
            inputs = {name: value.to(model.head.weight.device) for name, value in batch._asdict().items()}
            states = model.pooled(**inputs)
            found[[pair.pair for row in chunk for pair in row.pairs]] = (states[:, 0] - states[:, 1]).cpu().numpy()
    return found
