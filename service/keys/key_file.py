"""The file of keys: each with its tenant and role, an id to name it by, and when it expires."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

from filelock import FileLock
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from reward_model.faults import first_fault
from service.errors import SetupError
from service.identity import EVERY_TENANT, Identity, Role

_PREFIX = "wk-"
_LOCK_SECONDS = 10
_NAME = r"[A-Za-z0-9._-]{1,64}"
Name = Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
NameOrEvery = Annotated[str, StringConstraints(pattern=rf"^({_NAME}|\{EVERY_TENANT})$")]


class StoredKey(BaseModel):
    """One key. Files of earlier versions have neither ids nor times: their keys are named by their hash."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern=r"^[A-Za-z0-9]{4,32}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant: Name
    role: Role
    name: Name | None = None
    tenants: tuple[NameOrEvery, ...] | None = None
    created_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_hash(cls, data: Any) -> Any:
        if isinstance(data, dict) and "id" not in data and isinstance(data.get("sha256"), str):
            return {"id": data["sha256"][:8], **data}
        return data

    @property
    def identity(self) -> Identity:
        """Whom it speaks for."""
        return Identity(self.tenant, self.role, self.name, self.tenants)


class KeyFile(BaseModel):
    """The file as it stands on disk."""

    model_config = ConfigDict(extra="forbid")

    keys: list[StoredKey] = Field(default_factory=list)


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def read_keys(path: Path) -> list[StoredKey]:
    """The keys of a file. Raises SetupError if it is missing or is no keys file."""
    try:
        return KeyFile.model_validate_json(path.read_bytes()).keys
    except FileNotFoundError as error:
        raise SetupError(
            f"the keys file {path} does not exist; make a key with: winnow key make TENANT --keys {path}"
        ) from error
    except ValidationError as error:
        raise SetupError(f"{path} is not a keys file: {first_fault(error)}") from error
    except OSError as error:
        raise SetupError(f"the keys file {path} cannot be read: {error.strerror}") from error


def add_key(
    path: Path,
    tenant: str,
    role: str,
    *,
    replace: bool = False,
    name: str | None = None,
    tenants: Sequence[str] | None = None,
    expires_at: datetime.datetime | None = None,
) -> str:
    """Make a key for `tenant` and return it; `replace` drops the tenant's earlier ones."""
    return make_key(path, tenant, role, replace=replace, name=name, tenants=tenants, expires_at=expires_at)[0]


def make_key(
    path: Path,
    tenant: str,
    role: str,
    *,
    replace: bool = False,
    name: str | None = None,
    tenants: Sequence[str] | None = None,
    expires_at: datetime.datetime | None = None,
) -> tuple[str, StoredKey]:
    """Make a key, and return it with what is kept of it. Raises SetupError for what is no role or name."""
    if role not in get_args(Role):
        raise SetupError(f"{role} is not a role; choose one of {', '.join(get_args(Role))}")
    if tenants is not None and role == "client":
        raise SetupError("a client's key sees its own tenant only; `tenants` goes with the roles operator and admin")
    key, now = _PREFIX + secrets.token_urlsafe(24), datetime.datetime.now(datetime.UTC)
    if expires_at is not None and expires_at <= now:
        raise SetupError(f"{expires_at.isoformat()} has passed; a key expires later")
    fields = {"tenant": tenant, "role": role, "name": name, "tenants": tenants, "expires_at": expires_at}
    try:
        stored = StoredKey.model_validate(
            {"id": secrets.token_hex(4), "sha256": digest(key), "created_at": now.replace(microsecond=0), **fields}
        )
    except ValidationError as error:
        at_fault = error.errors()[0]
        what = f"{at_fault['loc'][0]}: {at_fault['input']!r}"
        raise SetupError(f"{what} is no name: use letters, digits, dots, dashes; at most 64") from error
    with _edited(path) as file:
        file.keys = [old for old in file.keys if not (replace and old.tenant == tenant)] + [stored]
    return key, stored


def revoke_key(path: Path, key_id: str) -> StoredKey:
    """Take a key out of the file. Raises SetupError if no key has this id."""
    read_keys(path)
    with _edited(path) as file:
        revoked = next((key for key in file.keys if key.id == key_id), None)
        if revoked is None:
            raise SetupError(f"no key of {path} has the id {key_id!r}; `winnow key list` shows them")
        file.keys.remove(revoked)
    return revoked


@contextmanager
def _edited(path: Path) -> Iterator[KeyFile]:
    """The file, written again when the block ends well; of two who edit it at once the second waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=_LOCK_SECONDS, mode=0o600):
        file = KeyFile(keys=read_keys(path) if path.exists() else [])
        yield file
        _write(path, file)


def _write(path: Path, file: KeyFile) -> None:
    """Readers see the old file or the new one, and nobody else reads either."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".keys-")
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump(file.model_dump(mode="json", exclude_none=True), stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
