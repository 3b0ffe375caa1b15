"""Checkpoints that are fit to publish."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from reward_model.calibration import Calibration, Selection, save_calibration


@pytest.fixture
def make(checkpoint: Path, tmp_path: Path) -> Callable[..., Path]:
    """A checkpoint by version, fit to publish; `content` makes another one of it."""

    def build(version: int, content: str = "", passed: bool | None = True) -> Path:
        folder = tmp_path / "made" / f"{version}{content}"
        shutil.copytree(checkpoint, folder)
        identity = f"tiny@{version}"
        manifest = json.loads((folder / "manifest.json").read_text()) | {"id": identity, "git_revision": content}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        calibration = Calibration(
            orm=identity,
            method="platt",
            event="acceptable",
            slope=1.0,
            intercept=0.0,
            labels=9,
            positives=3,
            date=date(2026, 1, 2),
            selection=Selection(n=8),
            fitted_on={},
        )
        save_calibration(folder, calibration)
        if passed is not None:
            by_attack = {"flattery": {"passed": passed}, "padding": {"passed": True}}
            (folder / "redteam.json").write_text(
                json.dumps({"orm": identity, "passed": passed, "by_attack": by_attack})
            )
        return folder

    return build
