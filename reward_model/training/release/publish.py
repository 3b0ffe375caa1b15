"""`winnow publish`: a checkpoint into the registry, after every check that a server would fail on later.

What is checked is the copy that is going to appear, not the folder it was copied from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_model.calibration import FILE as CALIBRATION
from reward_model.calibration import load_calibration
from reward_model.checkpoint.checkpoint import load_checkpoint
from reward_model.checkpoint.manifest import MANIFEST, read_manifest
from reward_model.digests import verify_digests
from reward_model.errors import BadInput, CheckpointError
from reward_model.labels import Pair
from reward_model.registry.history import Event, check_alias, history, operator, published_files, record
from reward_model.registry.placing import clear_leftovers, copy_visible, digests, place_folder, scratch
from reward_model.registry.registry import CHAMPION, read_aliases
from reward_model.text.formatting import Completion, Message
from reward_model.training.redteam.attacks import shortcomings

CHALLENGER = "challenger"
RED_TEAM = "redteam.json"
# Formats that run code when they are read, or hold weights that no manifest lists.
_UNSAFE = {".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth", ".py", ".so"}


@dataclass(frozen=True)
class RedTeam:
    """How a checkpoint's red team result is had: from its folder, or by running it on `pairs`.

    `override` is the operator's reason to publish a checkpoint that failed it or was not put to it.
    """

    pairs: Sequence[Pair] = ()
    seed: int = 7
    override: str | None = None


def publish(
    source: Path,
    registry: Path,
    alias: str = CHALLENGER,
    red_team: RedTeam | None = None,
    by: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Put the checkpoint at `source` into a registry, point `alias` at it, and say what was done.

    Publishing the same again changes nothing. Raises CheckpointError when it is not fit to serve or its id is taken
    by another, BadInput for an alias that only the gate may move.
    """
    red_team = red_team or RedTeam()
    if red_team.override is not None and not red_team.override.strip():
        raise BadInput("an override needs its reason", param="allow_unsafe")
    if not source.is_dir():
        raise CheckpointError(f"{source} is not the folder of a checkpoint")
    make_registry(registry)
    _alias_is_free(alias, registry)
    clear_leftovers(registry)
    identity = read_manifest(source).id
    target = _target(identity, registry)
    placed = not target.exists() and _place(source, target, registry, red_team, device)
    if not placed:
        _hold_same(source, target)
    verdict = _red_team_verdict(target, red_team)
    event = Event(
        by=by or operator(),
        event="publish",
        orm=identity,
        alias=alias,
        now=identity,
        reason=None if verdict["passed"] else red_team.override,
        files=digests(target),
    )
    done = not placed and _is_done(event, registry)
    was = identity if done else record(registry, event).was
    shown = {"orm": identity, "path": str(target), "alias": alias, "was": was}
    return {**shown, "published": placed, "red_team": verdict}


def fit_to_serve(folder: Path, device: str = "cpu") -> None:
    """Load a checkpoint as a server would and score one reply.

    Raises CheckpointError when it has no calibrator, gives no finite score, or holds files that are not data.
    """
    for path in folder.rglob("*"):
        if path.suffix in _UNSAFE:
            raise CheckpointError(f"{folder}: {path.name} is not taken; weights come as safetensors only")
    try:
        model = load_checkpoint(folder, device=device)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"{folder} cannot be loaded: {error}") from error
    if model.calibration is None:
        raise CheckpointError(f"{folder} has no {CALIBRATION}: fit one with `winnow calibrate`")
    ids = model.formatter.prompt_ids([Message(role="user", content="I was charged twice.")])
    ids = ids + model.formatter.completion_ids(Completion(content="I have refunded the second charge."))
    score = model.score([ids]).item()
    if not math.isfinite(score):
        raise CheckpointError(f"{folder} gives a score of {score}")


def make_registry(registry: Path) -> None:
    """The folder itself, but none above it: a volume that is not mounted should be noticed."""
    try:
        registry.mkdir(exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"the registry {registry} cannot be made: {error.strerror}") from error


def _alias_is_free(alias: str, registry: Path) -> None:
    check_alias(alias)
    if alias == CHAMPION or any(e.alias == alias and e.event in ("promote", "refuse") for e in history(registry)):
        raise BadInput(f"{alias} is moved by `winnow promote` alone, behind its gate; publish as {CHALLENGER}", "alias")


def _target(identity: str, registry: Path) -> Path:
    name, version = identity.split("@")
    if name.startswith(".") or version.startswith("."):
        raise CheckpointError(f"{identity} cannot be published: neither name nor version may begin with a dot")
    return registry / name / version


def _place(source: Path, target: Path, registry: Path, red_team: RedTeam, device: str) -> bool:
    """Copy, check the copy and let it appear; False when another publisher was quicker."""
    with scratch(registry) as folder:
        made = folder / "checkpoint"
        copy_visible(source, made)
        try:
            fit_to_serve(made, device)
            if red_team.pairs and not (made / RED_TEAM).exists():
                _run_red_team(made, red_team, device)
            _red_team_verdict(made, red_team)
        except CheckpointError as error:
            # The copy goes; what has to be mended is the source.
            raise type(error)(str(error).replace(str(made), str(source))) from error
        try:
            place_folder(made, target)
        except FileExistsError:
            return False
    return True


def _run_red_team(folder: Path, how: RedTeam, device: str) -> None:
    from reward_model.training.redteam.redteam import redteam

    result = redteam(load_checkpoint(folder, device=device), how.pairs, how.seed)
    (folder / RED_TEAM).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _red_team_verdict(folder: Path, how: RedTeam) -> dict[str, Any]:
    """What the folder's red team result says; CheckpointError when it failed and nobody overrides it."""
    verdict: dict[str, Any] = {"passed": False, "reason": how.override}
    if not (folder / RED_TEAM).is_file():
        problem = "was not put to the red team; run `winnow redteam`, or publish with --redteam-pairs"
    else:
        result = read_red_team(folder)
        # By our own limits: those of the file are whatever its maker asked for.
        lost, untried = shortcomings(result.get("by_attack", {}))
        if result["passed"] and not lost and not untried:
            return {"passed": True}
        verdict |= {"failed": lost, "untried": untried}
        problem = f"did not pass the red team ({_listed(lost, untried)})"
    if how.override is None:
        raise CheckpointError(f"{read_manifest(folder).id} {problem}; --allow-unsafe REASON overrides this")
    return verdict


def _listed(lost: list[str], untried: list[str]) -> str:
    parts = [f"{what}: {', '.join(names)}" for what, names in (("failed", lost), ("not tried", untried)) if names]
    return "; ".join(parts) or "its own limits"


def read_red_team(folder: Path) -> dict[str, Any]:
    """`redteam.json`; CheckpointError when it is not a result, or another checkpoint's."""
    path = folder / RED_TEAM
    try:
        result = json.loads(path.read_bytes())
        passed, orm = result["passed"], result.get("orm")
        shortcomings(result.get("by_attack", {}))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a red team's result: it must be an object with `passed`") from error
    if not isinstance(passed, bool):
        raise CheckpointError(f"{path}: `passed` must be true or false, not {passed!r}")
    if orm is not None and orm != (identity := read_manifest(folder).id):
        raise CheckpointError(f"{path} is the result of {orm}, not of {identity}")
    return dict(result)


def _hold_same(source: Path, target: Path) -> None:
    """The checkpoint that has the id already must be this one, and whole."""
    manifest = read_manifest(target)
    verify_digests(target, manifest.files)
    load_calibration(target, manifest.id)
    if any(_bytes(source / name) != _bytes(target / name) for name in (MANIFEST, CALIBRATION)):
        raise CheckpointError(
            f"{target} is another checkpoint of that id; checkpoints are immutable: raise the version"
        )


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _is_done(event: Event, registry: Path) -> bool:
    """Whether this publication is in the history, and its alias in place."""
    known = published_files(str(event.orm), history(registry)) is not None
    return known and read_aliases(registry).get(event.alias) == event.now
