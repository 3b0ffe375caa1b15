"""`winnow evaluate`: how often a reward model ranks a pair as people did, beside its baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_model.checkpoint import LoadedModel
from reward_model.model import RewardModel
from reward_model.training.data import Pair, as_completion
from reward_model.training.metrics import pair_figures, rank_correlation
from reward_model.training.trainer import rows_of, score_rows

# Tokens of one packed row or one padded batch: bounds memory at about 1 GB.
_TOKENS = 4096


def evaluate(model: LoadedModel, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The object that `winnow evaluate` prints.

    `spearman` is the rank correlation of the score difference with the annotators' margin, over the pairs
    that carry one. `calibration` repeats what the checkpoint's calibrator measured on labelled replies: pairs
    alone say nothing of probabilities.
    """
    scores = score_pairs(model, pairs)
    calibration = model.calibration
    return {
        "orm": model.id,
        **pair_figures(pairs, scores),
        "spearman": _spearman(pairs, scores),
        "calibration": None
        if calibration is None
        else {"event": calibration.event, "ece": calibration.ece, "brier": calibration.brier},
    }


def score_pairs(model: LoadedModel, pairs: Sequence[Pair]) -> NDArray[np.float32]:
    """Scores [pairs, 2] of (chosen, rejected).

    Our own models compute a prompt once for all the pairs of a dialogue; any other is given one reply at a
    time.
    """
    if isinstance(model.module, RewardModel):
        rows = rows_of(pairs, model.formatter, _TOKENS // 2)
        return score_rows(model.module, rows, token_budget=_TOKENS)
    replies = [(pair.prompt, as_completion(reply)) for pair in pairs for reply in (pair.chosen, pair.rejected)]
    sequences = [
        model.formatter.prompt_ids(prompt) + model.formatter.completion_ids(reply) for prompt, reply in replies
    ]
    return score_sequences(model, sequences).reshape(-1, 2)


def score_sequences(model: LoadedModel, sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Scores of token sequences, in their order, computed in batches of similar length."""
    scores = np.zeros(len(sequences), dtype=np.float32)
    batch: list[int] = []
    for index in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
        # Sorted, so the newest is the longest: the padded size is its length times the count.
        if batch and len(sequences[index]) * (len(batch) + 1) > _TOKENS:
            scores[batch] = model.score([sequences[i] for i in batch]).numpy()
            batch = []
        batch.append(index)
    if batch:
        scores[batch] = model.score([sequences[i] for i in batch]).numpy()
    return scores


def _spearman(pairs: Sequence[Pair], scores: NDArray[np.float32]) -> float | None:
    rated = [(pair.margin, scores[i, 0] - scores[i, 1]) for i, pair in enumerate(pairs) if pair.margin is not None]
    if not rated:
        return None
    margins, differences = np.array(rated, dtype=np.float64).T
    return rank_correlation(margins, differences)
