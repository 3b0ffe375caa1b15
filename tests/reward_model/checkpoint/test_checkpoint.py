from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from reward_model.checkpoint.checkpoint import load_checkpoint, save_checkpoint
from reward_model.checkpoint.manifest import Manifest, read_manifest
from reward_model.digests import verify_digests
from reward_model.errors import CheckpointError, IntegrityError
from reward_model.model.reward_model import RewardModel

SEQUENCES = [[5, 9, 30, 41, 7, 2], [8, 8, 12, 2], [3] * 40]


def _plain_scores(model: RewardModel) -> list[float]:
    with torch.inference_mode():
        return [model(torch.tensor([ids]), torch.tensor([0, len(ids) - 1])).item() for ids in SEQUENCES]


def test_a_merged_checkpoint_scores_as_peft_s_own_forward(checkpoint: Path, adapted: RewardModel) -> None:
    loaded = load_checkpoint(checkpoint, torch.float32)
    assert loaded.id == "tiny@1"
    assert loaded.calibration is None
    assert loaded.score(SEQUENCES).tolist() == pytest.approx(_plain_scores(adapted), abs=1e-4)


def test_a_score_does_not_depend_on_the_batch(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint, torch.float32)
    alone = [loaded.score([ids]).item() for ids in SEQUENCES]
    assert loaded.score(SEQUENCES).tolist() == pytest.approx(alone, abs=1e-4)


def test_bf16_is_close_and_keeps_the_head_exact(checkpoint: Path, adapted: RewardModel) -> None:
    loaded = load_checkpoint(checkpoint)
    assert isinstance(loaded.module, RewardModel)
    assert loaded.module.head.weight.dtype == torch.float32
    assert torch.equal(loaded.module.head.weight, adapted.head.weight)
    assert loaded.score(SEQUENCES).tolist() == pytest.approx(_plain_scores(adapted), abs=1.0)


def test_nothing_of_this_machine_is_written(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert {p.name for p in checkpoint.iterdir()} == {
        "README.md",
        "adapter",
        "head.safetensors",
        "manifest.json",
    }
    assert [p.name for p in checkpoint.parent.iterdir()] == ["1"]
    assert all(p.stat().st_mode & 0o044 for p in checkpoint.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", ["head.safetensors", "adapter/adapter_model.safetensors", "README.md"])
def test_one_changed_byte_is_found(checkpoint: Path, name: str) -> None:
    path = checkpoint / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=name):
        load_checkpoint(checkpoint)


def test_a_missing_or_added_weight_file_is_found(checkpoint: Path) -> None:
    manifest = read_manifest(checkpoint)
    (checkpoint / "more.safetensors").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"more\.safetensors is not listed"):
        verify_digests(checkpoint, manifest.files)
    (checkpoint / "more.safetensors").unlink()
    (checkpoint / "head.safetensors").unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        verify_digests(checkpoint, manifest.files)


def _rewrite(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_another_base_template_or_tokenizer_is_refused(checkpoint: Path, manifest: Manifest) -> None:
    base = manifest.base.model_dump()
    changes: list[tuple[dict[str, Any], str]] = [
        ({"base": {**base, "weights_sha256": "0"}}, "has weights"),
        ({"template_sha256": "0"}, "chat template"),
        ({"tokenizer_sha256": "0"}, "tokenizer"),
    ]
    for change, message in changes:
        _rewrite(checkpoint, **{**manifest.model_dump(mode="json"), "files": {}, **change})
        for weights in checkpoint.rglob("*.safetensors"):
            _list_file(checkpoint, weights)
        with pytest.raises(IntegrityError, match=message):
            load_checkpoint(checkpoint)


def _list_file(folder: Path, path: Path) -> None:
    from reward_model.digests import sha256_of

    files = json.loads((folder / "manifest.json").read_text())["files"]
    _rewrite(folder, files={**files, path.relative_to(folder).as_posix(): sha256_of(path)})


def test_the_bundled_base_is_held_to_its_source_file(checkpoint: Path) -> None:
    _rewrite(
        checkpoint,
        base={"name": "smollm2-135m-instruct", "weights_sha256": "0", "source_sha256": "1", "path": None},
    )
    with pytest.raises(IntegrityError, match="from the file 1"):
        load_checkpoint(checkpoint)
    _rewrite(checkpoint, base={"name": "other", "weights_sha256": "0"})
    with pytest.raises(CheckpointError, match="other is not bundled"):
        load_checkpoint(checkpoint)


def test_what_is_no_checkpoint_is_said(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no manifest\.json"):
        load_checkpoint(tmp_path)
    _rewrite(checkpoint, format_version=2)
    with pytest.raises(CheckpointError, match="cannot be read by this version"):
        load_checkpoint(checkpoint)


def test_checkpoints_are_immutable(checkpoint: Path, adapted: RewardModel, manifest: Manifest) -> None:
    with pytest.raises(CheckpointError, match="immutable"):
        save_checkpoint(checkpoint, adapted.backbone, adapted.head, manifest)
