"""Held messages: what a person decides on, exactly as it was sampled, until the application has it.

The copy in `candidates` is redacted and stays as history. These rows are what is sent, so they are whole; with
`store.encryption_key` they are encrypted at rest (Fernet), and the first of several keys encrypts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import and_, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from service.errors import StoreUnavailable
from service.settings import StoreSettings
from service.store.rows import Row
from service.store.tables import held_messages

# The index of what a reviewer wrote instead of every candidate.
EDITED = -1
# No Fernet token begins with it, and every JSON object does.
_PLAIN = b"{"


class Vault:
    """Seals and opens messages. `keep_seconds`: how long one can be fetched again after its first delivery."""

    def __init__(self, keys: Sequence[str] = (), keep_seconds: float = 3_600.0) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys]) if keys else None
        self._keep_ms = int(1000 * keep_seconds)

    def seal(self, message: Row) -> bytes:
        """As bytes of a row. ASCII: what is no Unicode text survives it too."""
        plain = json.dumps(message, separators=(",", ":")).encode("ascii")
        return plain if self._fernet is None else self._fernet.encrypt(plain)

    def open(self, sealed: bytes) -> Row:
        """The message again; rows from before a key was set are plain. Raises StoreUnavailable without its key."""
        if not sealed.startswith(_PLAIN):
            try:
                sealed = (self._fernet or _NO_KEY).decrypt(sealed)
            except InvalidToken as error:
                raise StoreUnavailable(
                    "a held message cannot be decrypted: the operator must add the key that it was written with to "
                    "store.encryption_key",
                    code="held_message_sealed",
                ) from error
        message: Row = json.loads(sealed)
        return message

    async def put(self, connection: AsyncConnection, response_id: str, index: int, message: Row) -> None:
        """Hold one more message of an answer."""
        row = {"response_id": response_id, "index": index, "message": self.seal(message)}
        await connection.execute(insert(held_messages).values(row))

    async def held_message(self, connection: AsyncConnection, response_id: str, index: int) -> Row | None:
        """One message, whole; None if it is not held, or its time after delivery is over."""
        return (await self.held_messages(connection, response_id)).get(index)

    async def held_messages(self, connection: AsyncConnection, response_id: str) -> dict[int, Row]:
        """Every message of an answer that is held, by its index."""
        query = select(held_messages).where(held_messages.c.response_id == response_id)
        rows = (await connection.execute(query)).mappings().all()
        oldest = _now() - self._keep_ms
        return {
            row["index"]: self.open(bytes(row["message"]))
            for row in rows
            if row["delivered_at_ms"] is None or row["delivered_at_ms"] > oldest
        }

    async def delivered(self, connection: AsyncConnection, response_id: str) -> None:
        """The application has it: the rest of its time begins, or it is gone at once where there is none."""
        if not self._keep_ms:
            await forget_held(connection, response_id)
            return
        first = and_(held_messages.c.response_id == response_id, held_messages.c.delivered_at_ms.is_(None))
        await connection.execute(update(held_messages).where(first).values(delivered_at_ms=_now()))

    async def prune(self, connection: AsyncConnection) -> int:
        """Delete what was delivered and whose time is over; how many messages."""
        over = held_messages.c.delivered_at_ms <= _now() - self._keep_ms
        return int((await connection.execute(delete(held_messages).where(over))).rowcount)


def vault_of(settings: StoreSettings) -> Vault:
    """As the settings say."""
    return Vault(settings.encryption_keys(), 60 * settings.delivered_minutes)


async def forget_held(connection: AsyncConnection, response_id: str, *, keep: int | None = None) -> None:
    """Delete the messages of an answer, but for the one that was chosen."""
    of = [held_messages.c.response_id == response_id]
    if keep is not None:
        of.append(held_messages.c.index != keep)
    await connection.execute(delete(held_messages).where(*of))


class _NoKey:
    def decrypt(self, sealed: bytes) -> bytes:
        raise InvalidToken


_NO_KEY = _NoKey()


def _now() -> int:
    return int(time.time() * 1000)
