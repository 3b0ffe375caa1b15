"""Baselines on sets made so that one of them knows the answer and the others do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from reward_model.labels import Pair
from reward_model.offline.evaluate_cli import evaluate_app
from reward_model.training.evaluation.baselines import HIDDEN, baselines


def _scored(pairs: Sequence[Pair]) -> np.ndarray:
    """A model that ranks every pair rightly if it sees the prompt, and none if it does not."""
    return np.array([[0.0, 1.0] if pair.prompt == HIDDEN else [1.0, 0.0] for pair in pairs])


def _pair(number: int, chosen: str, rejected: str, *turns: str, **changes: Any) -> Pair:
    roles = ("user", "assistant")
    prompt = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns or ("x",))]
    row = {"id": str(number), "group": str(number), "prompt": prompt, "chosen": chosen, "rejected": rejected}
    return Pair.model_validate({**row, **changes})


def _words(count: int = 60) -> list[Pair]:
    """Replies that say `kindly` win, and are as long as the others."""
    return [_pair(i, f"kindly {i % 7}", f"rudely {i % 7}") for i in range(count)]


def _script(count: int = 60) -> list[Pair]:
    """A script of three replies: name, then number, then end. The losers are its other replies."""
    script = ["name?", "card?", "done!"]
    return [
        _pair(i, script[step + 1], script[(step + 2) % 3], "hello", script[step], "words")
        for i in range(count)
        for step in [i % 2]
    ]


def test_words_that_win_are_learned_in_folds_or_from_the_training_split() -> None:
    for train, source in (([], "the set itself, in 5 folds by group"), (_words(40), "40 training pairs")):
        found = baselines(_words(), train, _scored)
        assert found["bag_of_words"]["accuracy"] == 1.0
        assert found["longer_wins"]["accuracy"] == 0.5
        assert found["reply_only"]["accuracy"] == 0.0
        assert found["learned_from"] == source
        assert "next_step" not in found
    assert found["replies"] == {"distinct": 14, "in_training": 14}


def test_the_next_step_of_a_script_is_found_without_understanding_a_word() -> None:
    found = baselines(_script(), [], _scored)
    assert found["next_step"]["accuracy"] == 1.0
    assert found["replies"] == {"distinct": 3, "in_training": None}


def test_a_fold_has_not_seen_the_dialogues_that_it_judges() -> None:
    # One dialogue of 20 pairs: no other group is there to learn from, so nothing is known.
    found = baselines([pair.model_copy(update={"group": "one"}) for pair in _words(20)], [], _scored)
    assert found["bag_of_words"]["accuracy"] == 0.5


def test_intervals_are_those_of_dialogues() -> None:
    pairs = _words()
    together = [pair.model_copy(update={"group": str(i // 20)}) for i, pair in enumerate(pairs)]
    alone, few = (baselines(rows, pairs, _scored)["bag_of_words"]["accuracy_ci"] for rows in (pairs, together))
    assert (alone[0], few[0]) == (pytest.approx(0.9398, abs=1e-3), pytest.approx(0.4385, abs=1e-3))


def test_ties_alone_have_no_baselines() -> None:
    assert baselines([_pair(1, "a", "b", outcome="tie")], [], _scored) == {}


def test_replies_without_a_word_in_common_leave_nothing_to_learn() -> None:
    found = baselines([_pair(i, f"a{i}", f"b{i}") for i in range(6)], [], _scored)
    assert found["bag_of_words"]["accuracy"] == 0.5


def test_evaluate_reports_them_and_learns_from_the_file_s_own_training_pairs(
    checkpoint: Path, tmp_path: Path, jsonl: Callable[[str, list[dict[str, Any]]], Path]
) -> None:
    rows = [
        pair.model_copy(update={"split": "test" if i < 20 else "train"}).model_dump(mode="json", exclude_none=True)
        for i, pair in enumerate(_words())
    ]
    file, page = jsonl("pairs.jsonl", rows), tmp_path / "page.html"
    done = CliRunner().invoke(
        evaluate_app, [str(file), "--model", str(checkpoint), "--split", "test", "--html", str(page)]
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["pairs"] == 20
    assert report["baselines"]["bag_of_words"]["accuracy"] == 1.0
    assert report["baselines"]["learned_from"] == "40 training pairs"
    assert "14 distinct replies, 14 of which also stand in training pairs." in page.read_text()
    alone = CliRunner().invoke(evaluate_app, [str(file), "--model", str(checkpoint), "--limit", "30"])
    assert json.loads(alone.stdout)["baselines"]["learned_from"] == "the set itself, in 5 folds by group"
