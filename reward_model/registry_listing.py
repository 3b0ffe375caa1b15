"""What `winnow models` shows of each checkpoint, read from its files without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reward_model.errors import RewardModelError
from reward_model.registry import CHAMPION, DEFAULT, checkpoints, identify, read_aliases
from reward_model.registry_history import Event, history, verify


def listing(registry: Path | None, verified: bool = False) -> dict[str, Any]:
    """`models`, `aliases` and `history`; with `verified`, each model's `damage`: what is wrong with it, or null.

    Raises CheckpointError when the registry is no folder, or its aliases or history cannot be read.
    """
    events = history(registry) if registry else []
    aliases = _aliases(registry)
    models = []
    for identity, folder in sorted(checkpoints(registry).items()):
        found = _describe(identity, folder, events)
        found["aliases"] = sorted(name for name, target in aliases.items() if target == identity)
        models.append(found | ({"damage": _damage(identity, registry, events)} if verified else {}))
    return {"models": models, "aliases": aliases, "history": [event.model_dump(exclude={"files"}) for event in events]}


def _describe(identity: str, folder: Path, events: list[Event]) -> dict[str, Any]:
    manifest = _object(folder / "manifest.json")
    calibration, red_team = _object(folder / "calibration.json"), _object(folder / "redteam.json")
    publication = next((e for e in reversed(events) if e.event == "publish" and e.orm == identity), None)
    return {
        "id": identity,
        "path": str(folder),
        "created": manifest.get("created"),
        "parents": _parents(manifest),
        "held_out": _held_out(manifest),
        "calibrator": {key: calibration.get(key) for key in ("method", "event", "labels", "ece", "brier")}
        if calibration
        else None,
        "red_team": red_team.get("passed"),
        "published": None
        if publication is None
        else {"at": publication.at, "by": publication.by, "unsafe": publication.reason},
    }


def _held_out(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    kept = ("pairs", "accuracy", "accuracy_ci", "longer_wins")
    figures = (manifest.get("metrics") or {}).get("held_out") or {}
    return {source: {key: found.get(key) for key in kept} for source, found in figures.items()}


def _parents(manifest: dict[str, Any]) -> list[str]:
    """The checkpoints that training went on from, the nearest first."""
    found, parent = [], manifest.get("parent")
    while parent:
        found.append(str(parent.get("id")))
        parent = parent.get("parent")
    return found


def _aliases(registry: Path | None) -> dict[str, str]:
    """Where each alias leads, the default of `champion` with them."""
    named = {CHAMPION: DEFAULT, **read_aliases(registry)}
    found = {}
    for alias, target in named.items():
        try:
            found[alias] = identify(target, registry)
        except RewardModelError:
            found[alias] = target  # gone: shown as it is written
    return found


def _damage(identity: str, registry: Path | None, events: list[Event]) -> str | None:
    try:
        verify(identity, registry, events)
    except RewardModelError as error:
        return str(error)
    return None


def _object(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is none, or it cannot be read: --verify tells why."""
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def show(found: dict[str, Any]) -> None:
    """The listing as a table on the standard output."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*_HEADER, show_lines=True)
    for model in found["models"]:
        table.add_row(*map(Text, _cells(model)))
    console = Console()
    console.print(table)
    known = {model["id"] for model in found["models"]}
    problems = [f"{alias} points at {to}, which is gone" for alias, to in found["aliases"].items() if to not in known]
    problems += [f"{model['id']} is damaged: {model['damage']}" for model in found["models"] if model.get("damage")]
    for problem in problems:
        console.print(problem, style="red", markup=False, soft_wrap=True)


_HEADER = ("id", "aliases", "created", "parent", "held-out accuracy (pairs)", "calibrator", "red team")


def _cells(model: dict[str, Any]) -> list[str]:
    figures = [f"{name} {f['accuracy']} ({f['pairs']})" for name, f in model["held_out"].items() if f["pairs"]]
    calibrator = model["calibrator"]
    red_team = {True: "passed", False: "FAILED", None: "none"}[model["red_team"]]
    unsafe = (model["published"] or {}).get("unsafe")
    return [
        model["id"],
        "\n".join(model["aliases"]),
        (model["created"] or "")[:16].replace("T", " "),
        "\n< ".join(model["parents"]) or "-",
        "\n".join(figures) or "-",
        f"{calibrator['method']}, {calibrator['event']}\n{calibrator['labels']} labels" if calibrator else "none",
        f"{red_team}; published because: {unsafe}" if unsafe else red_team,
    ]
