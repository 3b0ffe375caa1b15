"""SHA-256 of files, and whether a folder holds the files that it was sealed with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from reward_model.errors import IntegrityError


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify_digests(folder: Path, files: Mapping[str, str]) -> None:
    """IntegrityError when a listed file is missing or changed, or a weight file is not listed."""
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            raise IntegrityError(f"{folder}: {name} is missing")
        if (found := sha256_of(path)) != digest:
            raise IntegrityError(f"{folder}: {name} has SHA-256 {found}, {digest} was recorded")
    for path in folder.rglob("*.safetensors"):
        if (name := path.relative_to(folder).as_posix()) not in files:
            raise IntegrityError(f"{folder}: {name} is not listed")
