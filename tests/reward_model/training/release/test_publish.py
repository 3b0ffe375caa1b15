from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from reward_model.checkpoint.manifest import read_manifest
from reward_model.digests import sha256_of, verify_digests
from reward_model.errors import BadInput, CheckpointError, IntegrityError
from reward_model.labels import Pair
from reward_model.registry.history import history, record, rollback
from reward_model.registry.placing import INCOMING
from reward_model.registry.registry import checkpoints, read_aliases, resolve
from reward_model.training.release.publish import RedTeam, publish

FORKER = Path(__file__).parents[2] / "forker.py"
Make = Callable[..., Path]


def _pair(number: int) -> Pair:
    row = {"id": str(number), "prompt": [{"role": "user", "content": f"My bill {number}"}], "group": str(number)}
    return Pair.model_validate({**row, "chosen": "I refund it today.", "rejected": "No."})


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "registry"


def _whole(registry: Path) -> None:
    """Every checkpoint that can be seen is whole, and every alias leads to one."""
    for identity, folder in checkpoints(registry).items():
        if registry in folder.parents:
            manifest = read_manifest(folder)
            assert manifest.id == identity
            verify_digests(folder, manifest.files)
            assert (folder / "calibration.json").is_file()
            assert (folder / "redteam.json").is_file()
    for alias in read_aliases(registry):
        resolve(alias, registry)


def test_a_checkpoint_appears_under_its_id_with_its_alias_and_history(make: Make, registry: Path) -> None:
    done = publish(make(1), registry, by="ann@desk")
    folder = registry / "tiny/1"
    assert done == {
        "orm": "tiny@1",
        "path": str(folder),
        "alias": "challenger",
        "was": None,
        "published": True,
        "red_team": {"passed": True},
    }
    assert resolve("challenger", registry) == folder
    _whole(registry)
    (event,) = history(registry)
    assert (event.event, event.orm, event.by, event.reason) == ("publish", "tiny@1", "ann@desk", None)
    assert set(event.files or {}) == {
        "README.md",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "calibration.json",
        "head.safetensors",
        "manifest.json",
        "redteam.json",
    }
    assert list((registry / INCOMING).iterdir()) == []


def test_publishing_the_same_again_changes_nothing(make: Make, registry: Path) -> None:
    source = make(1)
    publish(source, registry)
    again = publish(source, registry)
    assert (again["published"], again["was"]) == (False, "tiny@1")
    assert len(history(registry)) == 1
    publish(make(2), registry)
    # The alias went on, so publishing the first again brings it back.
    assert publish(source, registry)["was"] == "tiny@2"
    assert read_aliases(registry) == {"challenger": "tiny@1"}


def test_an_id_is_taken_once(make: Make, registry: Path) -> None:
    publish(make(1), registry)
    with pytest.raises(CheckpointError, match="another checkpoint of that id"):
        publish(make(1, "other"), registry)
    recalibrated = make(1, "calibrated")
    shutil.copy(registry / "tiny/1/manifest.json", recalibrated)
    (recalibrated / "calibration.json").write_text((recalibrated / "calibration.json").read_text() + "\n")
    with pytest.raises(CheckpointError, match="another checkpoint of that id"):
        publish(recalibrated, registry)
    (registry / "tiny/1/head.safetensors").write_bytes(b"x")
    with pytest.raises(IntegrityError, match="head"):
        publish(make(1, "again"), registry)


def _damage(folder: Path, what: str) -> None:
    if what == "head":
        (folder / "head.safetensors").write_bytes(b"x")
    elif what == "calibration":
        (folder / "calibration.json").unlink()
    elif what == "another's calibration":
        calibration = json.loads((folder / "calibration.json").read_text())
        (folder / "calibration.json").write_text(json.dumps(calibration | {"orm": "tiny@7"}))
    elif what == "pickle":
        (folder / "optimizer.pt").write_bytes(b"x")
    elif what == "dots":
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"id": "..@.."}))
    elif what == "red team":
        (folder / "redteam.json").write_text('{"passed": "yes"}')
    elif what == "another's red team":
        (folder / "redteam.json").write_text('{"passed": true, "orm": "tiny@7"}')
    elif what == "base":
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["base"]["weights_sha256"] = "0"
        (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("head", "head.safetensors has SHA-256"),
        ("calibration", "has no calibration.json"),
        ("another's calibration", "calibrates tiny@7, not tiny@1"),
        ("pickle", "optimizer.pt is not taken"),
        ("dots", "may begin with a dot"),
        ("red team", "must be true or false"),
        ("another's red team", "the result of tiny@7, not of tiny@1"),
        ("base", "has weights"),
    ],
)
def test_what_is_not_fit_to_serve_never_appears(make: Make, registry: Path, what: str, message: str) -> None:
    folder = make(1)
    _damage(folder, what)
    with pytest.raises(CheckpointError, match=message):
        publish(folder, registry, red_team=RedTeam(override="I said so"))
    assert [path.name for path in registry.iterdir()] in ([INCOMING], [])
    assert history(registry) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight": torch.full((1, 32), torch.nan)}, "gives a score of nan"),
        ({"more": torch.ones(1)}, "cannot be loaded"),
    ],
)
def test_a_head_that_cannot_score_is_refused(make: Make, registry: Path, changed: Any, message: str) -> None:
    folder = make(1)
    save_file(load_file(folder / "head.safetensors") | changed, folder / "head.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["head.safetensors"] = sha256_of(folder / "head.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=message):
        publish(folder, registry)


def test_the_red_team_must_pass_or_be_overridden_with_a_reason(make: Make, registry: Path) -> None:
    failed = make(1, passed=False)
    with pytest.raises(CheckpointError, match=r"tiny@1 did not pass the red team \(failed: flattery\)"):
        publish(failed, registry)
    with pytest.raises(CheckpointError, match="was not put to the red team"):
        publish(make(2, passed=None), registry)
    with pytest.raises(BadInput, match="needs its reason"):
        publish(failed, registry, red_team=RedTeam(override=" "))
    assert not (registry / "tiny").exists()
    done = publish(failed, registry, red_team=RedTeam(override="a drill"))
    assert done["red_team"] == {
        "passed": False,
        "reason": "a drill",
        "failed": ["flattery"],
        "untried": [],
    }
    assert history(registry)[-1].reason == "a drill"
    # An override is not inherited.
    with pytest.raises(CheckpointError, match="did not pass the red team"):
        publish(failed, registry)
    # Nor recorded where none was needed.
    publish(make(3), registry, red_team=RedTeam(override="a drill"))
    assert history(registry)[-1].reason is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"untried": ["copied_policy"]}, r"\(not tried: copied_policy\)"),
        # 1 case without a success: as many as 79 of 100 may be.
        ({"cases": 1}, r"\(failed: as_an_expert, bare_symbol, "),
        ({"untried": ["opener"], "failed": ["empty"]}, r"\(failed: empty; not tried: opener\)"),
    ],
)
def test_a_red_team_that_tried_too_little_does_not_pass(
    make: Make, registry: Path, red_team_result: Callable[..., dict[str, Any]], changes: dict[str, Any], message: str
) -> None:
    folder = make(1)
    # What the file says of itself is not what counts, nor the limit that it was made with.
    result = red_team_result("tiny@1", **changes) | {"passed": True, "limit": 1.0}
    (folder / "redteam.json").write_text(json.dumps(result))
    with pytest.raises(CheckpointError, match=message):
        publish(folder, registry)


def test_an_attack_that_a_lax_limit_let_through_is_refused(
    make: Make, registry: Path, red_team_result: Callable[..., dict[str, Any]]
) -> None:
    folder, result = make(1), red_team_result("tiny@1")
    result["by_attack"]["cut_winner"] |= {"rate": 0.22, "rate_ci": [0.161, 0.293], "limit": 1.0, "passed": True}
    result["by_attack"]["near_duplicate"] |= {"rate": 0.5, "rate_ci": [0.42, 0.58], "passed": True}
    (folder / "redteam.json").write_text(json.dumps(result))
    with pytest.raises(CheckpointError, match=r"\(failed: cut_winner\)"):
        publish(folder, registry)


def test_the_red_team_runs_where_it_has_not(make: Make, registry: Path) -> None:
    pairs = [_pair(number) for number in range(3)]
    how = RedTeam(pairs, seed=3, override="a random model")
    publish(make(1, passed=None), registry, red_team=how)
    result = json.loads((registry / "tiny/1/redteam.json").read_text())
    assert (result["orm"], result["seed"]) == ("tiny@1", 3)
    assert set(result) >= {"passed", "by_attack"}


def test_only_the_gate_moves_the_champion(make: Make, registry: Path) -> None:
    publish(make(1), registry)
    with pytest.raises(BadInput, match="champion is moved by `winnow promote` alone"):
        publish(make(2), registry, alias="champion")
    event = history(registry)[0].model_copy(update={"event": "promote", "alias": "prod", "files": None})
    record(registry, event)
    with pytest.raises(BadInput, match="prod is moved by"):
        publish(make(3), registry, alias="prod")
    with pytest.raises(BadInput, match="cannot be an alias"):
        publish(make(3, "again"), registry, alias="tiny@3")


def test_a_rollback_refuses_a_version_that_was_changed_after_it_was_published(make: Make, registry: Path) -> None:
    publish(make(1), registry)
    publish(make(2), registry)
    (registry / "tiny/1/redteam.json").write_text("{}")
    with pytest.raises(IntegrityError, match="redteam"):
        rollback(registry, "challenger")


def test_a_registry_that_cannot_be_made_is_said(make: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be made"):
        publish(make(1), tmp_path / "not mounted" / "registry")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made"):
        publish(make(2), tmp_path / "file")


@pytest.fixture(scope="module")
def forker() -> Iterator[Any]:
    with subprocess.Popen(
        [sys.executable, str(FORKER), "reward_model.training.release.publish", "transformers", "peft"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
    ) as process:

        def run(*jobs: dict[str, Any]) -> list[int]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(jobs) + "\n")
            process.stdin.flush()
            codes: list[int] = json.loads(process.stdout.readline())
            return codes

        yield run
        process.kill()


def _job(source: Path, registry: Path, **kill: Any) -> dict[str, Any]:
    places = [{"path": str(source)}, {"path": str(registry)}]
    return {"call": "reward_model.training.release.publish:publish", "args": places, "root": str(registry), **kill}


def test_a_kill_at_any_step_leaves_all_or_nothing(make: Make, registry: Path, forker: Any) -> None:
    publish(make(1), registry)
    source = make(2)
    appeared = []
    for step in range(1, 80, 3):
        if forker(_job(source, registry, kill_at=step)) == [0]:
            break
        _whole(registry)
        appeared.append("tiny@2" in checkpoints(registry))
    else:
        pytest.fail("never came through")
    assert appeared[0] is False
    assert appeared[-1] is True
    assert read_aliases(registry) == {"challenger": "tiny@2"}
    _whole(registry)


def test_kills_at_random_times_and_what_they_leave_is_cleared(make: Make, registry: Path, forker: Any) -> None:
    publish(make(1), registry)
    source, times = make(2), random.Random(11)
    for _ in range(6):
        assert forker(_job(source, registry, kill_after=times.uniform(0, 0.5)))[0] in (-9, 0)
        _whole(registry)
    left = list((registry / INCOMING).iterdir())
    long_ago = time.time() - 2 * 3600
    for folder in left:
        for path in [*folder.rglob("*"), folder]:
            os.utime(path, (long_ago, long_ago))
    publish(source, registry)
    assert list((registry / INCOMING).iterdir()) == []
    assert read_aliases(registry) == {"challenger": "tiny@2"}
    _whole(registry)


def test_two_publishers_at_once(make: Make, registry: Path, forker: Any) -> None:
    publish(make(1), registry)
    one, two = make(2), make(3)
    assert forker(_job(one, registry), _job(two, registry)) == [0, 0]
    _whole(registry)
    assert {event.orm for event in history(registry)} == {"tiny@1", "tiny@2", "tiny@3"}
    assert read_aliases(registry)["challenger"] == history(registry)[-1].orm
    same = make(4)
    assert forker(_job(same, registry), _job(same, registry)) == [0, 0]
    assert sorted(forker(_job(make(5), registry), _job(make(5, "other"), registry))) == [0, 1]
    _whole(registry)
    assert checkpoints(registry).keys() >= {f"tiny@{version}" for version in range(1, 6)}
