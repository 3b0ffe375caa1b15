from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event as Signal
from threading import Thread
from typing import Any

import pytest

from reward_model.errors import BadInput, CheckpointError, IntegrityError, UnknownModel
from reward_model.registry import history as registry_history
from reward_model.registry.history import Event, history, operator, record, rollback, served, verify
from reward_model.registry.placing import digests
from reward_model.registry.registry import read_aliases

FORKER = Path(__file__).parents[1] / "forker.py"


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """Checkpoints orm@1 to orm@4, whole as far as digests go."""
    for version in "1234":
        folder = tmp_path / "orm" / version
        folder.mkdir(parents=True)
        (folder / "head.safetensors").write_text(version)
        (folder / "manifest.json").write_text(json.dumps({"files": digests(folder)}))
    return tmp_path


def _event(now: str, event: str = "promote", alias: str = "champion", **more: Any) -> Event:
    return Event.model_validate({"by": "ann@desk", "event": event, "orm": now, "alias": alias, "now": now, **more})


def _promote(registry: Path, *versions: int) -> None:
    for version in versions:
        record(registry, _event(f"orm@{version}"))


def test_a_move_is_kept_with_what_it_was_and_the_gates_report(registry: Path) -> None:
    _promote(registry, 1)
    report = {"passed": True, "note": "süß"}
    written = record(registry, _event("orm@2", was="orm@1"), report, if_unmoved=True)
    assert read_aliases(registry) == {"champion": "orm@2"}
    first, second = history(registry)
    assert second == written
    assert (first.was, first.now, second.was, second.now) == (None, "orm@1", "orm@1", "orm@2")
    assert (first.number, second.number, second.by, second.aliases) == (1, 2, "ann@desk", {"champion": "orm@1"})
    kept = (registry / ".history/000002/gate.json").read_bytes()
    assert json.loads(kept) == report
    assert second.gate_sha256 == hashlib.sha256(kept).hexdigest()
    assert first.at < second.at


def test_a_refusal_is_kept_and_moves_nothing(registry: Path) -> None:
    _promote(registry, 1)
    written = record(registry, _event("orm@2", "refuse"), {"passed": False})
    assert (written.orm, written.was, written.now) == ("orm@2", "orm@1", "orm@1")
    assert read_aliases(registry) == {"champion": "orm@1"}


def test_a_verdict_over_another_champion_does_not_count(registry: Path) -> None:
    _promote(registry, 1, 2)
    with pytest.raises(CheckpointError, match=r"moved meanwhile, from orm@1 to orm@2; run this again"):
        record(registry, _event("orm@3", was="orm@1"), if_unmoved=True)
    assert len(history(registry)) == 2


def test_rollback_goes_back_step_by_step_to_the_bundled_model(registry: Path) -> None:
    _promote(registry, 1, 2, 3)
    record(registry, _event("orm@4", "publish", "challenger"))
    assert [rollback(registry, "champion").now for _ in range(3)] == ["orm@2", "orm@1", None]
    assert read_aliases(registry) == {"challenger": "orm@4"}
    with pytest.raises(BadInput, match="nothing to go back to"):
        rollback(registry, "champion")
    _promote(registry, 4)
    assert rollback(registry, "champion", by="bob").now is None
    assert history(registry)[-1].by == "bob"
    assert operator().count("@") == 1


def test_rollback_to_a_version_it_has_been_at(registry: Path) -> None:
    _promote(registry, 1, 2, 3)
    for wrong, message in [("orm@4", "never pointed at orm@4"), ("orm@3", "points at orm@3 already")]:
        with pytest.raises(BadInput, match=message):
            rollback(registry, "champion", wrong)
    assert rollback(registry, "champion", "orm@1").now == "orm@1"
    assert rollback(registry, "champion").now is None


def test_what_was_cut_short_or_undone_by_hand_is_no_place_to_go_back_to(registry: Path) -> None:
    _promote(registry, 1, 2)
    aliases = registry / "aliases.json"
    # Killed between event and aliases.json, or put back by hand: either way it has not been at orm@3.
    record(registry, _event("orm@3"))
    aliases.write_text('{"champion": "orm@2"}')
    record(registry, _event("orm@4"))
    assert served("champion", history(registry), read_aliases(registry)) == [None, "orm@1", "orm@2", "orm@4"]
    aliases.write_text('{"champion": "orm@3"}')
    assert rollback(registry, "champion").now == "orm@2"
    assert rollback(registry, "champion").now == "orm@1"


@pytest.mark.parametrize("how", ["gone", "changed", "no manifest", "recalibrated"])
def test_rollback_refuses_what_is_gone_or_damaged(registry: Path, how: str) -> None:
    folder = registry / "orm/1"
    (folder / "calibration.json").write_text("{}")
    record(registry, _event("orm@1", "publish", files=digests(folder)))
    _promote(registry, 2)
    if how == "gone":
        folder.rename(registry / "moved away")
    elif how == "changed":
        (folder / "head.safetensors").write_text("other")
    elif how == "no manifest":
        (folder / "manifest.json").write_text("{")
    else:
        (folder / "calibration.json").write_text('{"slope": 2}')
    with pytest.raises((UnknownModel, IntegrityError), match=r"orm@1 is gone|head|manifest|calibration"):
        rollback(registry, "champion")
    assert read_aliases(registry) == {"champion": "orm@2"}


def test_without_a_publication_the_manifest_holds(registry: Path) -> None:
    verify("orm@1", registry, [])
    (registry / "orm/1/manifest.json").write_text("[]")
    with pytest.raises(IntegrityError, match="manifest cannot be read"):
        verify("orm@1", registry, [])


def test_what_is_wrong_with_a_registry_is_said(registry: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        record(registry / "typo", _event("orm@1"))
    with pytest.raises(BadInput, match="cannot be an alias"):
        registry_history.check_alias("orm@1")
    _promote(registry, 1)
    (registry / ".history/000001/event.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"000001/event\.json is not an event"):
        history(registry)


def test_a_writer_whom_no_lock_stopped_is_waited_for(registry: Path) -> None:
    """The event of another writer is there, its aliases are not yet: as on a mount where locks do not work."""
    _promote(registry, 1)
    (registry / "aliases.json").unlink()
    began = time.monotonic()
    record(registry, _event("orm@2", "publish", "challenger"))
    assert 0.8 < time.monotonic() - began < 10
    assert read_aliases(registry) == {"challenger": "orm@2"}


@pytest.fixture(scope="module")
def forker() -> Iterator[Any]:
    with subprocess.Popen(
        [sys.executable, str(FORKER), "reward_model.registry.history"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
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


def _job(registry: Path, now: str, alias: str = "champion", **kill: Any) -> dict[str, Any]:
    event = _event(now, alias=alias).model_dump(mode="json")
    args = [{"path": str(registry)}, event]
    return {"call": "reward_model.registry.history:record", "args": args, "root": str(registry), **kill}


def test_a_kill_at_any_step_leaves_the_alias_before_or_after(registry: Path, forker: Any) -> None:
    _promote(registry, 1)
    targets = ["orm@2", "orm@1"]
    kills = 0
    for step in range(1, 60):
        before, target = read_aliases(registry)["champion"], targets[step % 2]
        killed = forker(_job(registry, target, kill_at=step)) == [-9]
        kills += killed
        assert read_aliases(registry)["champion"] in (before, target)
        assert len({event.number for event in history(registry)}) == len(history(registry))
        if not killed:
            break
    # How many there are depends on the library that locks.
    assert 5 < kills < 59
    # An alias that never got there is no place to go back to.
    places = served("champion", history(registry), read_aliases(registry))
    assert set(places) <= {None, "orm@1", "orm@2"}
    _promote(registry, 3)
    assert rollback(registry, "champion").now == places[-1]


def test_kills_at_random_times(registry: Path, forker: Any) -> None:
    _promote(registry, 1)
    times = random.Random(5)
    for attempt in range(12):
        forker(_job(registry, f"orm@{2 + attempt % 3}", kill_after=times.uniform(0, 0.04)))
        assert read_aliases(registry)["champion"] in {f"orm@{n}" for n in "1234"}
    assert forker(_job(registry, "orm@1")) == [0]
    assert read_aliases(registry) == {"champion": "orm@1"}


@pytest.mark.parametrize("locks", ["work", "are lost"])
def test_many_writers_at_once_lose_no_move(registry: Path, forker: Any, locks: str) -> None:
    finished = Signal()

    def lose_locks() -> None:
        # Whoever opens the lock next locks another file: as if locks did nothing.
        while not finished.wait(0.0005):
            (registry / ".lock").unlink(missing_ok=True)

    thread = Thread(target=lose_locks if locks == "are lost" else finished.wait)
    thread.start()
    codes = forker(*(_job(registry, f"orm@{1 + n % 4}", alias=f"alias{n}") for n in range(8)))
    finished.set()
    thread.join()
    assert codes == [0] * 8
    assert read_aliases(registry) == {f"alias{n}": f"orm@{1 + n % 4}" for n in range(8)}
    assert [event.number for event in history(registry)] == list(range(1, 9))
    assert {event.alias for event in history(registry)} == {f"alias{n}" for n in range(8)}
