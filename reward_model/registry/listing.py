"""What `winnow models` shows of each checkpoint, read from its files without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reward_model.errors import RewardModelError
from reward_model.registry.history import Event, history, verify
from reward_model.registry.registry import CHAMPION, DEFAULT, checkpoints, identify, read_aliases


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
        "risk_control": calibration.get("risk_control"),
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
    """The listing on the standard output, a block for each checkpoint, so that it reads well at 80 columns."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for model in found["models"]:
        aliases = f"  ({', '.join(model['aliases'])})" if model["aliases"] else ""
        console.print(Text.assemble((model["id"], "bold"), aliases))
        facts = Table.grid(padding=(0, 2))
        for name, fact in _facts(model):
            facts.add_row(Text(name, style="dim"), Text(fact))
        console.print(Padding(facts, (0, 0, 1, 2), expand=False))
    known = {model["id"] for model in found["models"]}
    problems = [f"{alias} points at {to}, which is gone" for alias, to in found["aliases"].items() if to not in known]
    problems += [f"{model['id']} is damaged: {model['damage']}" for model in found["models"] if model.get("damage")]
    for problem in problems:
        console.print(problem, style="red", markup=False, soft_wrap=True)


def _facts(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of what is known of a checkpoint; what is missing is named where that matters."""
    facts = [("created", model["created"][:16].replace("T", " "))] if model["created"] else []
    if model["parents"]:
        facts.append(("trained from", " < ".join(model["parents"])))
    measured = {source: figures for source, figures in model["held_out"].items() if figures["pairs"]}
    for number, (source, figures) in enumerate(measured.items()):
        name = "" if number else "held out"
        facts.append((name, f"{source}: accuracy {figures['accuracy']} on {figures['pairs']} pairs"))
    red_team = {True: "passed", False: "FAILED", None: "none"}[model["red_team"]]
    unsafe = (model["published"] or {}).get("unsafe")
    return [
        *facts,
        ("calibrator", _calibrator(model["calibrator"])),
        *_risk(model["risk_control"]),
        ("red team", f"{red_team}; published because: {unsafe}" if unsafe else red_team),
    ]


def _calibrator(found: dict[str, Any] | None) -> str:
    if found is None:
        return "none: no probabilities"
    return f"{found['method']} on {found['labels']} labels of `{found['event']}`"


def _risk(found: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The accept thresholds of `accept_threshold = "risk:..."`, or that there are none."""
    by_route = (found or {}).get("by_route") or {}
    at = [f"{route} from {known['probability']:.2f}" for route, known in by_route.items() if known.get("probability")]
    return [(f"risk {found['alpha']:g}", ", ".join(at) or "no threshold")] if found and by_route else []
