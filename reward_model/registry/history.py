"""History of a registry's aliases: one folder for each event, and the moves themselves.

`.history/000007/event.json` is the seventh event, with the gate's report beside it where there was one. `aliases.json`
alone says where an alias points. An event is written first, with the aliases as they were; if its writer is killed
before it changes `aliases.json`, the next event's aliases tell that nothing moved, and an edit by hand is seen in the
same way. Taking the next number decides between two writers where the file lock does not, as on some network mounts.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import re
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reward_model.digests import verify_digests
from reward_model.errors import BadInput, CheckpointError, IntegrityError, UnknownModel
from reward_model.registry.placing import place_folder, place_text, scratch
from reward_model.registry.registry import ALIASES, checkpoints, read_aliases

HISTORY = ".history"
GATE_REPORT = "gate.json"
_EVENT = "event.json"
_LOCK = ".lock"
_LOCK_SECONDS = 60.0
# So long after its event, a move that has not reached aliases.json belongs to a writer that was killed (seconds).
_SETTLES = 1.0


class Event(BaseModel):
    """One line of the history; an alias that points nowhere (null) leaves it to the bundled model to serve."""

    model_config = ConfigDict(extra="forbid")

    number: int = 0
    at: str = ""
    by: str
    event: Literal["publish", "promote", "refuse", "rollback"]
    orm: str | None = Field(description="The checkpoint that the event is about.")
    alias: str
    was: str | None = Field(None, description="Where the alias pointed.")
    now: str | None = Field(None, description="Where it points after the event.")
    reason: str | None = Field(None, description="Why an operator overrode the red team or the gate.")
    gate_sha256: str | None = Field(None, description="Digest of the gate's report, which lies beside the event.")
    files: dict[str, str] | None = Field(None, description="Of a publication: the digest of every file.")
    aliases: dict[str, str] = Field(default_factory=dict, description="The whole table as it was before.")

    def table(self) -> dict[str, str]:
        """The aliases after this event."""
        kept = {name: target for name, target in self.aliases.items() if name != self.alias}
        return kept if self.now is None else {**kept, self.alias: self.now}


def operator() -> str:
    """Who is at work, as `user@host`."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def check_alias(alias: str) -> None:
    """BadInput unless `alias` is a plain name, which no checkpoint's id or path can be."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", alias):
        raise BadInput(f"{alias!r} cannot be an alias: letters, digits and . _ - make one", param="alias")


def history(registry: Path) -> list[Event]:
    """Every event, oldest first; CheckpointError names one that cannot be read."""
    found = []
    for path in sorted((registry / HISTORY).glob(f"*/{_EVENT}"), key=lambda path: int(path.parent.name)):
        try:
            found.append(Event.model_validate_json(path.read_bytes()))
        except ValidationError as error:
            raise CheckpointError(f"{path} is not an event of this version: {error}") from error
    return found


def record(registry: Path, event: Event, report: dict[str, Any] | None = None, if_unmoved: bool = False) -> Event:
    """Keep an event, the gate's `report` beside it, and point its alias at `event.now`; returns it complete.

    Raises CheckpointError when another writer holds the registry, or, with `if_unmoved`, when the alias does not
    point at `event.was` any more.
    """
    digest = None if report is None else hashlib.sha256(gate_text(report).encode()).hexdigest()

    def decide(events: list[Event], aliases: dict[str, str]) -> Event:
        found = aliases.get(event.alias)
        if if_unmoved and found != event.was:
            raise CheckpointError(f"{event.alias} was moved meanwhile, from {event.was} to {found}; run this again")
        now = found if event.event == "refuse" else event.now
        return event.model_copy(update={"was": found, "now": now, "gate_sha256": digest})

    return _write(registry, decide, report)


def rollback(registry: Path, alias: str, to: str | None = None, by: str | None = None) -> Event:
    """Move an alias back to where it pointed before, or to `to` if it ever pointed there.

    Raises BadInput when there is no such place, UnknownModel when that version is gone, IntegrityError when it is
    damaged.
    """

    def decide(events: list[Event], aliases: dict[str, str]) -> Event:
        before = served(alias, events, aliases)
        if to is not None and to == before[-1]:
            raise BadInput(f"{alias} points at {to} already")
        if to is not None and to not in before:
            raise BadInput(f"{alias} never pointed at {to}, so it cannot go back there; see `winnow promote`")
        if len(before) < 2:
            raise BadInput(f"{alias} has been nowhere else, so there is nothing to go back to")
        target = to if to is not None else before[-2]
        if target is not None:
            verify(target, registry, events)
        return Event(by=by or operator(), event="rollback", orm=target, alias=alias, was=aliases.get(alias), now=target)

    return _write(registry, decide)


def served(alias: str, events: list[Event], aliases: dict[str, str]) -> list[str | None]:
    """Where an alias has pointed, oldest first, up to now; what a rollback undid is not in it.

    Only tables that were found in `aliases.json` count, so that neither a move which was cut short nor one which
    was undone by hand is taken for a place where the alias has been.
    """
    places: list[str | None] = []
    tables = [*(event.aliases for event in events), aliases]
    for cause, table in zip([None, *events], tables, strict=True):
        target = table.get(alias)
        back = cause is not None and cause.event == "rollback" and (cause.alias, cause.now) == (alias, target)
        if back and target in places:
            del places[len(places) - places[::-1].index(target) :]
        elif not places or places[-1] != target:
            places.append(target)
    return places


def verify(identity: str, registry: Path | None, events: list[Event]) -> None:
    """Hold a checkpoint's files to what was published, or else to its manifest.

    Raises UnknownModel when it is gone, IntegrityError when a file is missing or changed.
    """
    folder = checkpoints(registry).get(identity)
    if folder is None:
        raise UnknownModel(f"{identity} is gone from the registry")
    verify_digests(folder, published_files(identity, events) or _listed(folder))


def published_files(identity: str, events: list[Event]) -> dict[str, str] | None:
    """The digests that a checkpoint was published with, or None if it was put there by other means."""
    return next((event.files for event in reversed(events) if event.files and event.orm == identity), None)


def _listed(folder: Path) -> dict[str, str]:
    try:
        files = json.loads((folder / "manifest.json").read_bytes())["files"]
        return {str(name): str(digest) for name, digest in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{folder}: its manifest cannot be read ({error!r})") from error


def _write(
    registry: Path,
    decide: Callable[[list[Event], dict[str, str]], Event],
    report: dict[str, Any] | None = None,
) -> Event:
    """Take the next number for the event that `decide` makes of history and aliases, then change the aliases."""
    if not registry.is_dir():
        raise CheckpointError(f"the registry {registry} is not a folder")
    try:
        with FileLock(registry / _LOCK, timeout=_LOCK_SECONDS):
            while True:
                events, aliases = _settled(registry)
                number = events[-1].number + 1 if events else 1
                at = datetime.now(UTC).isoformat(timespec="milliseconds")
                event = decide(events, aliases).model_copy(update={"number": number, "at": at, "aliases": aliases})
                if _take_number(registry, event, report):
                    break
            if event.table() != aliases:
                place_text(json.dumps(event.table(), indent=1) + "\n", registry / ALIASES, registry)
            return event
    except Timeout as error:
        raise CheckpointError(f"another command has held {registry / _LOCK} for {_LOCK_SECONDS:.0f} s") from error
    except OSError as error:
        raise CheckpointError(f"the registry {registry} cannot be written: {error}") from error


def _settled(registry: Path) -> tuple[list[Event], dict[str, str]]:
    """History and aliases; waits a moment for another writer, whom the lock did not stop, to finish its move."""
    give_up = time.monotonic() + _SETTLES
    while True:
        events, aliases = history(registry), read_aliases(registry)
        if not events or events[-1].table() == aliases or not _recent(events[-1]) or time.monotonic() > give_up:
            return events, aliases
        time.sleep(0.05)


def _recent(event: Event) -> bool:
    return abs((datetime.now(UTC) - datetime.fromisoformat(event.at)).total_seconds()) < _SETTLES


def _take_number(registry: Path, event: Event, report: dict[str, Any] | None) -> bool:
    """Write the event's folder; False when another writer has taken its number."""
    with scratch(registry) as folder:
        made = folder / "event"
        made.mkdir()
        (made / _EVENT).write_text(event.model_dump_json(indent=1) + "\n", encoding="utf-8")
        if report is not None:
            (made / GATE_REPORT).write_text(gate_text(report), encoding="utf-8")
        try:
            place_folder(made, registry / HISTORY / f"{event.number:06d}")
        except FileExistsError:
            return False
    return True


def gate_text(report: dict[str, Any]) -> str:
    """The gate's report as it is kept, and as `gate_sha256` was taken of it."""
    return json.dumps(report, indent=1, ensure_ascii=False) + "\n"
