from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reward_model.calibration import load_calibration
from reward_model.offline.evaluate_cli import evaluate_app
from reward_model.training.calibration.cli import calibrate_app
from reward_model.training.cli import train_app
from reward_model.training.data_cli import data_app

Write = Callable[[str, list[dict[str, Any]]], Path]
ROW = {"id": "a", "prompt": [{"role": "user", "content": "x"}], "chosen": "cc", "rejected": "r", "group": "g"}

LABEL: dict[str, Any] = {
    "id": "l",
    "prompt": [{"role": "user", "content": "q"}],
    "completion": "a",
    "acceptable": True,
    "group": "g",
    "selection": {"n": 8, "policy": "tiny", "temperature": 0.8},
}


def test_evaluate_prints_one_object(checkpoint: Path, jsonl: Write) -> None:
    path = jsonl("pairs.jsonl", [{**ROW, "id": str(i), "group": str(i)} for i in range(5)])
    done = CliRunner().invoke(evaluate_app, [str(path), "--model", str(checkpoint), "--limit", "3"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["orm"], report["pairs"], report["longer_wins"]) == ("tiny@1", 3, 1.0)


def test_evaluate_says_how_many_pairs_truncation_makes_equal(checkpoint: Path, jsonl: Write) -> None:
    long = "refund " * 80
    equal = {**ROW, "id": "b", "chosen": long + "Then confirm.", "rejected": long + "Then shout."}
    done = CliRunner().invoke(evaluate_app, [str(jsonl("pairs.jsonl", [ROW, equal])), "--model", str(checkpoint)])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["equal_after_truncation"], report["pairs"], report["ties"]) == (1, 1, 0)
    assert "1 of 2 pairs are left out: after truncation both replies are the same tokens" in done.stderr


def test_evaluate_reads_a_registry(checkpoint: Path, jsonl: Write) -> None:
    path = jsonl("pairs.jsonl", [ROW])
    arguments = [str(path), "--model", "tiny", "--registry", str(checkpoint.parents[1])]
    done = CliRunner().invoke(evaluate_app, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["orm"] == "tiny@1"


def test_calibrate_writes_the_calibrator_of_the_calibration_split(checkpoint: Path, jsonl: Write) -> None:
    rows = []
    for group in range(30):
        for index in range(4):
            # What the tiny model thinks of a text is arbitrary: say that its order is right.
            text = f"{index} is reply to {group}"
            rows.append((group, index, text))
    from reward_model.checkpoint.checkpoint import load_checkpoint
    from reward_model.labels import LabelledReply, as_completion
    from reward_model.training.evaluation.evaluate import score_sequences

    def label(group: int, index: int, text: str, acceptable: bool, split: str) -> dict[str, Any]:
        prompt = [{"role": "user", "content": f"q{group}"}]
        chosen_by = {"n": 4, "policy": "tiny", "temperature": 0.8}
        row = {
            "id": f"{group}.{index}{split}",
            "prompt": prompt,
            "completion": text,
            "selection": chosen_by,
            "completion_tokens": 6,
        }
        return {**row, "acceptable": acceptable, "group": f"g{group}", "split": split}

    model = load_checkpoint(checkpoint)
    unlabelled = [LabelledReply.model_validate(label(*row, False, "calibration")) for row in rows]
    form = model.formatter
    scores = score_sequences(
        model,
        [form.prompt_ids(r.prompt) + form.completion_ids(as_completion(r.completion)) for r in unlabelled],
    )
    middle = sorted(scores)[len(scores) // 2]
    labels = [label(*row, bool(score > middle), "calibration") for row, score in zip(rows, scores, strict=True)]
    # Of another split, and wrong: it must not be read.
    labels += [label(*row, bool(score < middle), "train") for row, score in zip(rows, scores, strict=True)]
    arguments = [str(checkpoint), str(jsonl("labels.jsonl", labels)), "--stop-cost", "0.2", "--stop-marks", "2,4"]
    arguments += ["--wave-cost", "0.001", "--wave-cost", "0.5", "--waves", "2,4", "--early-accept", "0.9"]
    done = CliRunner().invoke(calibrate_app, arguments)
    assert done.exit_code == 0, done.output
    saved = load_calibration(checkpoint, "tiny@1")
    assert saved is not None
    assert json.loads(done.stdout) == saved.model_dump(mode="json")
    assert saved.fitted_on["replies"] == 120
    assert saved.partial_scores is not None
    assert [mark.tokens for mark in saved.partial_scores.marks] == [2, 4]
    assert saved.partial_scores.prompts == 30
    gain, early = "expected_gain(cost=0.2, marks=2+4)", "early_accept(0.9)"
    cheap, dear = "waves(2+4, cost=0.001)", "waves(2+4, cost=0.5)"
    assert list(saved.by_stopping_rule) == [gain, cheap, dear, early, f"{cheap} {gain} {early}"]
    for rule, under_it in saved.by_stopping_rule.items():
        assert under_it.selection.stopping_rule == rule
        assert under_it.fitted_on["winners"] == saved.fitted_on["winners"] == 30
    traded = {rule: own.fitted_on["trade_off"] for rule, own in saved.by_stopping_rule.items()}
    # No candidate is worth half a probability: the first two of four are all that is sampled.
    assert traded[dear]["tokens"] == pytest.approx(0.5, abs=0.05)
    assert traded[dear]["tokens"] <= traded[cheap]["tokens"]
    assert saved.candidate_scores is not None
    assert saved.candidate_scores.prompts == 30
    assert load_checkpoint(checkpoint).calibration == saved


def test_split_prints_its_report(tmp_path: Path, jsonl: Write) -> None:
    jsonl("preferences/star.jsonl", [ROW])
    done = CliRunner().invoke(data_app, ["split", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["star"]["train"]["pairs"] + 1 >= 1


@pytest.mark.parametrize(
    ("app", "arguments", "message"),
    [
        (evaluate_app, ["{pairs}", "--model", "nothing"], "no reward model is called 'nothing'"),
        (evaluate_app, ["{bad}"], "bad.jsonl, line 1: prompt"),
        (evaluate_app, ["{empty}"], "has no pairs"),
        (evaluate_app, ["none.jsonl"], "none.jsonl: No such file"),
        (calibrate_app, ["{folder}", "{empty}"], "has no replies of the calibration split"),
        (calibrate_app, ["{folder}", "{bad}"], "bad.jsonl, line 1: prompt"),
        (calibrate_app, ["{folder}", "{labels}", "--stop-cost", "1", "--stop-marks", "a,2"], "'a,2' is not a list"),
        (calibrate_app, ["{folder}", "{labels}", "--wave-cost", "1", "--waves", "4,x"], "'4,x' is not a list"),
        (calibrate_app, ["{folder}", "{labels}", "--early-accept", "1.5"], "that is no stopping rule"),
        (data_app, ["split", "--data", "{folder}", "--out", "x"], "has no .jsonl"),
        (train_app, ["{empty}", "--data", "{folder}", "--out", "x"], "id: Field required"),
        (train_app, ["{recipe}", "--data", "{folder}", "--out", "{folder}"], "exists"),
    ],
)
def test_bad_input_is_said_with_exit_code_2(
    app: Any, arguments: list[str], message: str, tmp_path: Path, jsonl: Write
) -> None:
    (tmp_path / "recipe.toml").write_text('id = "x@1"\nsources = {}\n')
    places = {
        "pairs": jsonl("pairs.jsonl", [ROW]),
        "bad": jsonl("bad.jsonl", [{"id": "x"}]),
        "empty": jsonl("empty.jsonl", []),
        "labels": jsonl("labels.jsonl", [LABEL]),
        "folder": tmp_path,
        "recipe": tmp_path / "recipe.toml",
    }
    done = CliRunner().invoke(app, [argument.format(**places) for argument in arguments])
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
