"""`winnow data shortcuts`: can the winner be told without reading the prompt?

Two baselines learn from the training split and are measured on the test split, by failure mode. Bag of words sees
which words and pairs of words a reply has. Reply-only sees the reply through a frozen language model with the prompt
hidden. What they reach needs no understanding of the prompt: a reward model has to beat them, and a set on which they
reach everything has given its winners away by a template. Where the fault lies in the reply alone (rudeness, say) they
are right to find it; where it lies in what the prompt says they should be near 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_model.errors import BadInput
from reward_model.labels import Pair, by_split
from reward_model.text.formatting import FormattingRule
from reward_model.training.evaluation.baselines import HIDDEN, bag_of_words
from reward_model.training.evaluation.metrics import figures_by, pair_figures
from reward_model.training.fit.build import build
from reward_model.training.fit.head_start import start_head
from reward_model.training.fit.recipe import ModelRecipe, OptimRecipe, Recipe
from reward_model.training.fit.trainer import rows_of, score_rows


def shortcuts(pairs: Sequence[Pair], base: str = "bundled", layers: int = 12, seed: int = 7) -> dict[str, Any]:
    """Accuracy of both baselines and of the longer reply on the test split, by failure mode.

    Raises BadInput when a split is empty.
    """
    splits = by_split(pair for pair in pairs if pair.outcome == "win")
    if empty := [name for name, members in splits.items() if not members]:
        raise BadInput(f"no pairs with a winner in the split {', '.join(empty)}")
    test = splits["test"]
    found: dict[str, NDArray[np.floating[Any]]] = {
        "bag_of_words": bag_of_words(splits["train"], test),
        "reply_only": _reply_only(splits, base, layers, seed),
    }
    longer = pair_figures(test, np.zeros((len(test), 2)))["longer_wins"]
    result: dict[str, Any] = {"train": len(splits["train"]), "test": len(test), "longer_wins": longer}
    for name, scores in found.items():
        modes = figures_by(test, scores, lambda pair: pair.failure_mode or "unknown")
        figures = {mode: [f["accuracy"], f["pairs"]] for mode, f in modes.items()}
        whole = pair_figures(test, scores)
        accuracy = {"accuracy": whole["accuracy"], "accuracy_ci": whole["accuracy_ci"]}
        result[name] = {**accuracy, "by_failure_mode": figures}
    return result


def _reply_only(splits: Any, base: str, layers: int, seed: int) -> NDArray[np.float32]:
    """Scores [pairs, 2] of a regression on the frozen states of replies behind an empty prompt."""
    trainee = build(
        Recipe(
            id="reply-only@1",
            model=ModelRecipe(base=base, layers=layers, pooling="mean_completion_tokens"),
            formatting=FormattingRule(max_prompt_tokens=64, max_completion_tokens=384),
            sources={},
            optim=OptimRecipe(seed=seed),
        )
    )
    hidden = {
        name: [pair.model_copy(update={"prompt": HIDDEN}) for pair in members] for name, members in splits.items()
    }
    rows = {name: rows_of(members, trainee.formatter, 1024) for name, members in hidden.items()}
    start_head(trainee.model, (hidden["train"], rows["train"]), (hidden["validation"], rows["validation"]))
    return score_rows(trainee.model, rows["test"])
