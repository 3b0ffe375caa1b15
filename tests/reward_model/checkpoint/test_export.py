"""A checkpoint as others load it: transformers gives the same scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from reward_model.checkpoint.checkpoint import load_checkpoint
from reward_model.checkpoint.export import export
from reward_model.errors import BadInput
from reward_model.training.release.registry_cli import models_app


def test_transformers_scores_it_as_we_do(checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    done = CliRunner().invoke(models_app, ["export", str(checkpoint), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "orm": "tiny@1",
        "folder": str(tmp_path / "out"),
        "pooling": "last_token",
        "as_trained": True,
    }
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    ours = load_checkpoint(checkpoint, torch.bfloat16)
    texts = [[1, 5, 6, 7, 8, 2], [1, 9, 10, 11, 12, 2]]
    with torch.no_grad():
        given = [float(theirs(input_ids=torch.tensor([ids])).logits) for ids in texts]
    found = ours.score(texts).tolist()
    assert given[0] - given[1] == pytest.approx(found[0] - found[1], rel=0.02)
    assert not list(tmp_path.glob(".out*"))


def test_a_mean_is_not_passed_off_as_a_last_token(checkpoint: Path, tmp_path: Path) -> None:
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["pooling"] = "mean_completion_tokens"
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match="the scores would be others"):
        export(str(checkpoint), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert export(str(checkpoint), tmp_path / "out", last_token=True)["as_trained"] is False


def test_nothing_is_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="exists"):
        export(str(checkpoint), tmp_path)
