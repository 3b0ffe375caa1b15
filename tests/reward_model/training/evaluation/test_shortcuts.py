"""What can be told without the prompt, on a set made so that the answer is known."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from reward_model.errors import BadInput
from reward_model.labels import Pair
from reward_model.training.evaluation.shortcuts import shortcuts


def _pairs(count: int = 240) -> list[Pair]:
    """Half fail by a word in the reply; half by what the prompt asked for, with the same two replies."""
    random, rows = Random(0), []
    for i in range(count):
        split = ("train", "train", "train", "validation", "test")[i % 5]
        wanted = random.choice(["yes", "no"])
        other = {"yes": "no", "no": "yes"}[wanted]
        visible = i % 2 == 0
        rows.append(
            Pair.model_validate(
                {
                    "id": str(i),
                    "group": str(i),
                    "prompt": [{"role": "user", "content": f"say {wanted} {i}"}],
                    "chosen": f"please {wanted}" if visible else f"well {wanted}",
                    "rejected": f"idiot {wanted}" if visible else f"well {other}",
                    "failure_mode": "rude" if visible else "wrong",
                    "split": split,
                }
            )
        )
    return rows


def test_a_fault_in_the_reply_is_found_and_one_that_depends_on_the_prompt_is_not(base: Path) -> None:
    found = shortcuts(_pairs(), str(base), layers=2)
    assert (found["train"], found["test"]) == (144, 48)
    for name in ("bag_of_words", "reply_only"):
        modes = found[name]["by_failure_mode"]
        assert modes["rude"] == [pytest.approx(1.0, abs=0.05), 24]
        assert 0.2 <= modes["wrong"][0] <= 0.8
    # "please" is longer than "idiot", "yes" than "no": 0.5 + 0.5 / 2, give or take.
    assert found["longer_wins"] > 0.6


def test_an_empty_split_is_named(base: Path) -> None:
    with pytest.raises(BadInput, match="validation"):
        shortcuts([pair for pair in _pairs() if pair.split != "validation"], str(base), layers=2)
