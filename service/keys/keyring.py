"""Whose key it is. A changed file is read again, so keys come, go and expire without a restart."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from service.errors import NotAuthenticated, SetupError
from service.identity import Identity
from service.keys.key_file import StoredKey, digest, read_keys

log = logging.getLogger("winnow.keys")

# What tells one state of a file from another: when it was written, which file it is, its size. None: there is none.
_Stamp = tuple[int, int, int] | None


class Keyring:
    """The keys of a file. One that cannot be read any more leaves the last good keys in force."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Raises SetupError if the file cannot be read: nobody could be served."""
        self._path = path
        self._clock = clock
        self._problem: str | None = None
        self._stamp = self._look()
        self._keys = _by_digest(read_keys(path))

    def identify(self, authorization: str | None) -> Identity:
        """The identity of an `Authorization: Bearer` header. Raises NotAuthenticated if nobody has that key."""
        self._refresh()
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise NotAuthenticated("send your API key as `Authorization: Bearer KEY`")
        # Looking up a digest of 192 random bits tells a timing attacker nothing about the key.
        stored = self._keys.get(digest(key.strip()))
        if stored is None:
            raise NotAuthenticated("no such API key")
        if stored.expires_at is not None and stored.expires_at.timestamp() <= self._clock():
            raise NotAuthenticated(f"this API key expired at {stored.expires_at.isoformat()}; ask for a new one")
        return stored.identity

    @property
    def problem(self) -> str | None:
        """Why the file as it stands is not in force; None if it is."""
        self._refresh()
        return self._problem

    def _refresh(self) -> None:
        if (stamp := self._look()) == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = _by_digest(read_keys(self._path))
        except SetupError as error:
            # Once for each state of the file: every request comes by here.
            self._problem = str(error)
            log.error("%s; the keys read before stay in force", error)
            return
        if self._problem is not None:
            log.warning("the keys file can be read again")
        self._problem = None

    def _look(self) -> _Stamp:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size


def _by_digest(keys: list[StoredKey]) -> dict[str, StoredKey]:
    return {key.sha256: key for key in keys}
