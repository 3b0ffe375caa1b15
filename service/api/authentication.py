"""API keys: who asks, for which tenant, in which role. Keys are random, shown once, and kept as SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import NotAuthenticated, SetupError
from service.identity import Identity, Role

_PREFIX = "wk-"


class _StoredKey(BaseModel):
    model_config = ConfigDict(extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    role: Role


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[_StoredKey] = Field(default_factory=list)


class Keyring:
    """The keys of a file; a changed file is read again, so keys come and go without a restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: tuple[int, int] | None = None
        self._identities: dict[str, Identity] = {}
        self._refresh()

    def identify(self, authorization: str | None) -> Identity:
        """The identity of an `Authorization: Bearer` header; NotAuthenticated when nobody has that key."""
        self._refresh()
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise NotAuthenticated("send your API key as `Authorization: Bearer KEY`")
        # Looking up a digest of 256 random bits tells a timing attacker nothing about the key.
        identity = self._identities.get(_digest(key.strip()))
        if identity is None:
            raise NotAuthenticated("no such API key")
        return identity

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
        except FileNotFoundError as error:
            raise SetupError(
                f"the keys file {self._path} does not exist; make a key with: winnow key TENANT --keys {self._path}"
            ) from error
        if (stamp := (status.st_mtime_ns, status.st_ino)) != self._read_at:
            stored = _read(self._path)
            self._identities = {key.sha256: Identity(key.tenant, key.role) for key in stored.keys}
            self._read_at = stamp


def add_key(path: Path, tenant: str, role: str, *, replace: bool = False) -> str:
    """Make a key for `tenant` and return it; `replace` drops the tenant's earlier ones. Written atomically."""
    if role not in get_args(Role):
        raise SetupError(f"{role} is not a role; choose one of {', '.join(get_args(Role))}")
    file = _read(path) if path.exists() else _KeyFile()
    key = _PREFIX + secrets.token_urlsafe(24)
    try:
        stored = _StoredKey(sha256=_digest(key), tenant=tenant, role=role)
    except ValidationError as error:
        raise SetupError(f"{tenant!r} is no tenant name: use letters, digits, dots, dashes; at most 64") from error
    kept = [old for old in file.keys if not (replace and old.tenant == tenant)]
    _write(path, _KeyFile(keys=[*kept, stored]))
    return key


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def _read(path: Path) -> _KeyFile:
    try:
        return _KeyFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise SetupError(f"{path} is not a keys file: {error.errors()[0]['msg']}") from error


def _write(path: Path, file: _KeyFile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".keys-")
    with os.fdopen(handle, "w") as stream:
        json.dump(file.model_dump(), stream, indent=1)
    Path(name).replace(path)
