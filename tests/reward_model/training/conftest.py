"""Pairs by their texts, and checkpoints that are fit to publish."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from reward_model.calibration import Calibration, Selection, save_calibration
from reward_model.estimates import wilson
from reward_model.labels import Pair
from reward_model.training.redteam.attacks import NAMES

Row = dict[str, Any]


def _row(name: str, chosen: str = "Yes, by rule 2.", rejected: str = "Perhaps, one day.", **fields: Any) -> Row:
    prompt = fields.pop("prompt", f"Question {name}?")
    turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    row = {"id": name, "prompt": turns, "chosen": chosen, "rejected": rejected, "group": name, "label": "human"}
    return {**row, **fields}


@pytest.fixture
def row() -> Callable[..., Row]:
    """A row of a pairs file: `row("a", chosen="...", bucket="billing")`."""
    return _row


@pytest.fixture
def pair() -> Callable[..., Pair]:
    """The same as a Pair."""
    return lambda name, *texts, **fields: Pair.model_validate(_row(name, *texts, **fields))


def red_team(orm: str, failed: Sequence[str] = (), untried: Sequence[str] = (), cases: int = 150) -> dict[str, Any]:
    """A red team's result in which no attack but the `failed` ones ever won."""
    by_attack = {
        name: {"cases": cases, "rate": rate, "rate_ci": wilson(rate * cases, cases), "passed": name not in failed}
        for name in NAMES
        if name not in untried
        for rate in [1.0 if name in failed else 0.0]
    }
    return {"orm": orm, "passed": not failed, "by_attack": by_attack}


@pytest.fixture
def red_team_result() -> Callable[..., dict[str, Any]]:
    """`red_team`, for the tests beside this file."""
    return red_team


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
            (folder / "redteam.json").write_text(json.dumps(red_team(identity, () if passed else ("flattery",))))
        return folder

    return build
