from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reward_model.registry.history import Event, record
from reward_model.registry.placing import digests
from reward_model.registry.registry import identify
from reward_model.training.release.registry_cli import models_app, rollback_app

BUNDLED = identify("winnow-orm", None)
MANIFEST: dict[str, Any] = {
    "created": "2026-01-02T03:04:05+00:00",
    "parent": {"id": "orm-pairs@1", "parent": {"id": "orm-pairs@0", "parent": None}},
    "metrics": {
        "held_out": {"bank": {"pairs": 458, "accuracy": 0.932, "accuracy_ci": [0.9, 0.95], "longer_wins": 0.4}}
    },
}
CALIBRATION = {"method": "platt", "event": "acceptable", "labels": 568, "ece": 0.03, "brier": 0.02, "slope": 1}


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """orm@1, once champion, and orm@2 after it, which was published unsafe."""
    for version, passed in (("1", True), ("2", False)):
        folder = tmp_path / "orm" / version
        folder.mkdir(parents=True)
        (folder / "head.safetensors").write_text(version)
        (folder / "calibration.json").write_text(json.dumps(CALIBRATION))
        (folder / "redteam.json").write_text(json.dumps({"passed": passed}))
        (folder / "manifest.json").write_text(json.dumps({**MANIFEST, "files": {}}))
        orm = f"orm@{version}"
        reason = None if passed else "a [drill]"
        event = Event(
            by="ann", event="publish", orm=orm, alias="champion", now=orm, reason=reason, files=digests(folder)
        )
        record(tmp_path, event)
    return tmp_path


def _run(app: Any, *arguments: Any) -> Any:
    # Wide enough that no cell is wrapped.
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "250"})


def test_the_listing_shows_each_checkpoint(registry: Path) -> None:
    done = _run(models_app, "--registry", registry)
    assert done.exit_code == 0, done.output
    for text in [
        "orm@1",
        "champion",
        "2026-01-02 03:04",
        "orm-pairs@1 < orm-pairs@0",
        "bank: accuracy 0.932 on 458 pairs",
        "platt on 568 labels of `acceptable`",
        "passed",
        "FAILED; published because: a [drill]",
        BUNDLED,
    ]:
        assert text in done.stdout
    assert "intact" not in done.stdout


def test_at_80_columns_each_fact_stands_on_one_line(registry: Path) -> None:
    done = CliRunner().invoke(models_app, ["--registry", str(registry)], env={"COLUMNS": "80"})
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert max(map(len, lines)) <= 80
    start = lines.index("orm@2  (champion)")
    assert lines[start : start + 7] == [
        "orm@2  (champion)",
        "  created       2026-01-02 03:04",
        "  trained from  orm-pairs@1 < orm-pairs@0",
        "  held out      bank: accuracy 0.932 on 458 pairs",
        "  calibrator    platt on 568 labels of `acceptable`",
        "  red team      FAILED; published because: a [drill]",
        "",
    ]


def test_the_listing_shows_from_where_a_risk_is_held(registry: Path) -> None:
    by_route = {"billing": {"probability": 0.831}, "fraud": {"probability": None}}
    control = {"alpha": 0.05, "delta": 0.05, "by_route": by_route}
    (registry / "orm/1/calibration.json").write_text(json.dumps(CALIBRATION | {"risk_control": control}))
    none = {"alpha": 0.1, "delta": 0.05, "by_route": {"fraud": {"probability": None}}}
    (registry / "orm/2/calibration.json").write_text(json.dumps(CALIBRATION | {"risk_control": none}))
    shown = [line.split() for line in _run(models_app, "--registry", registry).stdout.splitlines()]
    assert ["risk", "0.05", "billing", "from", "0.83"] in shown
    assert ["risk", "0.1", "no", "threshold"] in shown


def test_json_has_models_aliases_and_history(registry: Path) -> None:
    listing = json.loads(_run(models_app, "--registry", registry, "--json").stdout)
    models = {model["id"]: model for model in listing["models"]}
    assert listing["aliases"] == {"champion": "orm@2"}
    assert (models["orm@1"]["aliases"], models["orm@2"]["aliases"]) == ([], ["champion"])
    assert models["orm@1"]["parents"] == ["orm-pairs@1", "orm-pairs@0"]
    assert models["orm@1"]["held_out"] == MANIFEST["metrics"]["held_out"]
    assert models["orm@1"]["calibrator"]["labels"] == 568
    assert (models["orm@1"]["red_team"], models["orm@2"]["red_team"]) == (True, False)
    assert models["orm@2"]["published"]["unsafe"] == "a [drill]"
    assert models[BUNDLED]["published"] is None
    assert [(event["event"], event["was"], event["now"]) for event in listing["history"]] == [
        ("publish", None, "orm@1"),
        ("publish", "orm@1", "orm@2"),
    ]


def test_without_a_registry_the_bundled_model_is_the_champion() -> None:
    listing = json.loads(_run(models_app, "--json").stdout)
    assert listing["aliases"] == {"champion": BUNDLED}
    assert listing["history"] == []


def test_damage_is_found_on_request_and_an_alias_to_nothing_is_said(registry: Path) -> None:
    (registry / "orm/1/head.safetensors").write_text("other")
    (registry / "aliases.json").write_text('{"champion": "orm@9"}')
    (registry / "orm/2/calibration.json").write_text("{")
    done = _run(models_app, "--registry", registry, "--verify")
    assert "head.safetensors has SHA-256" in done.stdout
    assert "champion points at orm@9, which is gone" in done.stdout
    models = json.loads(_run(models_app, "--registry", registry, "--verify", "--json").stdout)["models"]
    assert {model["id"]: model["damage"] is None for model in models} == {
        "orm@1": False,
        "orm@2": False,
        BUNDLED: True,
    }


def test_rollback_moves_the_alias_back_and_says_when_the_bundled_model_serves(registry: Path) -> None:
    done = _run(rollback_app, "--registry", registry, "--by", "bob")
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert (shown["alias"], shown["was"], shown["now"], shown["number"]) == ("champion", "orm@2", "orm@1", 3)
    last = _run(rollback_app, "--registry", registry)
    assert json.loads(last.stdout)["now"] is None
    assert "the bundled model" in last.stderr
    none = _run(rollback_app, "--registry", registry)
    assert (none.exit_code, none.stdout) == (2, "")
    assert "nothing to go back to" in none.stderr
    assert _run(rollback_app, "--registry", registry, "--to", "orm@9").exit_code == 2


def test_neither_command_needs_torch(registry: Path) -> None:
    script = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'peft', 'sklearn'): sys.modules[name] = None\n"
        "from typer.testing import CliRunner\n"
        "from reward_model.training.release.registry_cli import models_app, rollback_app\n"
        f"where = ['--registry', {str(registry)!r}]\n"
        "for app, more in ((models_app, ['--verify']), (rollback_app, [])):\n"
        "    done = CliRunner().invoke(app, where + more)\n"
        "    assert done.exit_code == 0, done.output\n"
        "done = CliRunner().invoke(models_app, ['pull', 'team/tiny', *where])\n"
        "assert done.exit_code == 2 and 'winnow-rerank[train]' in done.stderr, done.output\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
