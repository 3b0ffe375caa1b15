"""Writes folders and files atomically, whatever is killed, and computes their digests.

Everything is written under `ROOT/.incoming/`, flushed to the disk and then renamed, so that a reader sees all of it
or none. The rename of a folder fails where one lies already: that is what decides between two writers, on a local
disk as on a network mount, whether or not locks work there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reward_model.digests import sha256_of

INCOMING = ".incoming"
# A killed writer's folder goes when nothing was written in it for so long (seconds).
_LEFT_BEHIND = 3600.0


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """An empty folder on the file system of `root`, gone afterwards."""
    incoming = root / INCOMING
    incoming.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=incoming))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def place_folder(made: Path, target: Path) -> None:
    """Let the folder `made` appear at `target`; FileExistsError when something lies there already."""
    for path in [*made.rglob("*"), made]:
        _flush(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(target)
    except OSError as error:
        # A rename onto a folder says ENOTEMPTY or EEXIST, by the file system.
        if target.exists():
            raise FileExistsError(f"{target} exists") from error
        raise
    _flush(target.parent)


def place_text(text: str, target: Path, root: Path) -> None:
    """Put `text` at `target`, in place of what it held."""
    with scratch(root) as folder:
        made = folder / target.name
        made.write_text(text, encoding="utf-8")
        _flush(made)
        made.replace(target)
    _flush(target.parent)


def copy_visible(source: Path, target: Path) -> None:
    """Copy a folder's files, links followed, but nothing whose name begins with a dot.

    Times are not copied: `clear_leftovers` tells from them that somebody is still writing.
    """
    target.mkdir(parents=True)
    for path in visible_files(source):
        made = target / path.relative_to(source)
        made.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, made)


def clear_leftovers(root: Path) -> None:
    """Remove what killed writers left under `root`, once nothing was written there for an hour."""
    for folder in (root / INCOMING).glob("*"):
        try:
            newest = max(path.stat().st_mtime for path in [*folder.rglob("*"), folder])
            if time.time() - newest < _LEFT_BEHIND:
                continue
            # Renamed first: should its writer be alive after all, it must not place a folder that is half removed.
            doomed = Path(tempfile.mkdtemp(dir=root / INCOMING)) / "removed"
            folder.rename(doomed)
        except FileNotFoundError:
            continue  # its writer, or another that clears, has just removed it
        shutil.rmtree(doomed.parent, ignore_errors=True)


def visible_files(folder: Path) -> list[Path]:
    """The files of a folder, sorted; none whose name, or whose folder's name within it, begins with a dot."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in found if not any(n.startswith(".") for n in path.relative_to(folder).parts))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every visible file, by its name within the folder."""
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in visible_files(folder)}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
