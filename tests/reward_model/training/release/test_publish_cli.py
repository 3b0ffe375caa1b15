from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reward_model.training.release.publish_cli import promote_app, publish_app

Make = Callable[..., Path]
Write = Callable[[str, list[dict[str, Any]]], Path]
ROW = {"id": "a", "prompt": [{"role": "user", "content": "x"}], "chosen": "cc", "rejected": "r", "group": "g"}


def _run(app: Any, *arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_publish_then_promote_then_refuse(make: Make, tmp_path: Path, jsonl: Write) -> None:
    registry = tmp_path / "registry"
    done = _run(publish_app, make(1), "--registry", registry, "--by", "ann@desk")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["orm"] == "tiny@1"
    pairs = jsonl("pairs.jsonl", [{**ROW, "bucket": "billing", "split": "test"}])
    first = _run(promote_app, "challenger", "--registry", registry, "--pairs", pairs)
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["promoted"] is True
    assert "nothing to compare with" in first.stderr
    assert "champion -> tiny@1" in first.stderr
    again = _run(promote_app, "tiny@1", "--registry", registry, "--pairs", pairs)
    assert (again.exit_code, json.loads(again.stdout)["promoted"]) == (0, False)
    assert "already" in again.stderr
    # The scores are the same, so that only a bucket without pairs is unproven.
    _run(publish_app, make(2), "--registry", registry)
    arguments = ["tiny@2", "--registry", registry, "--pairs", pairs, "--high-risk", "fraud", "--margin", "0.1"]
    refused = _run(promote_app, *arguments)
    assert refused.exit_code == 1
    assert json.loads(refused.stdout)["gate"]["margin"] == 0.1
    assert "fraud: 0 pairs" in refused.stderr
    assert "champion stays" in refused.stderr
    forced = _run(promote_app, *arguments, "--force", "a drill")
    assert (forced.exit_code, json.loads(forced.stdout)["forced"]) == (0, "a drill")


def test_an_unsafe_checkpoint_needs_a_reason(make: Make, tmp_path: Path) -> None:
    source, registry = make(1, passed=False), tmp_path / "registry"
    refused = _run(publish_app, source, "--registry", registry)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--allow-unsafe REASON" in refused.stderr
    done = _run(publish_app, source, "--registry", registry, "--allow-unsafe", "a drill")
    assert json.loads(done.stdout)["red_team"]["reason"] == "a drill"


def test_the_registry_comes_from_the_environment_too(make: Make, tmp_path: Path) -> None:
    done = CliRunner().invoke(publish_app, [str(make(1))], env={"WINNOW_REGISTRY": str(tmp_path / "registry")})
    assert done.exit_code == 0, done.output
    assert (tmp_path / "registry/tiny/1/manifest.json").exists()


@pytest.mark.parametrize(
    ("app", "arguments", "message"),
    [
        (publish_app, ["{empty}", "--registry", "{folder}"], "is not the folder of a checkpoint"),
        (publish_app, ["{folder}", "--registry", "{folder}"], "has no manifest.json"),
        (publish_app, ["x", "--registry", "{folder}", "--redteam-pairs", "{empty}"], "has no pairs"),
        (promote_app, ["x", "--registry", "{folder}", "--pairs", "{bad}"], "bad.jsonl, line 1: prompt"),
        (promote_app, ["x", "--registry", "{folder}", "--pairs", "{pairs}"], "no reward model is called 'x'"),
        (promote_app, ["x", "--registry", "/nowhere", "--pairs", "{pairs}"], "is not a folder"),
    ],
)
def test_bad_input_is_said_with_exit_code_2(
    app: Any, arguments: list[str], message: str, tmp_path: Path, jsonl: Write
) -> None:
    places = {
        "pairs": jsonl("pairs.jsonl", [ROW]),
        "bad": jsonl("bad.jsonl", [{"id": "x"}]),
        "empty": jsonl("empty.jsonl", []),
        "folder": tmp_path,
    }
    done = _run(app, *(argument.format(**places) for argument in arguments))
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
