"""The `rerank` objects of recent responses, for lookup by id: bounded, in memory, by tenant."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

from service.store.rows import user_digest


class _Recent(NamedTuple):
    tenant: str
    user: str | None
    rerank: dict[str, Any]


class RecentResponses:
    """The last `limit` responses; an older one, or another tenant's, is not found."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[str, _Recent] = OrderedDict()

    def remember(self, response_id: str, tenant: str, rerank: dict[str, Any], user: str | None = None) -> None:
        """Keep a response, forgetting the oldest when there are too many."""
        self._entries[response_id] = _Recent(tenant, user, rerank)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def get(self, response_id: str, tenant: str) -> dict[str, Any] | None:
        """The `rerank` object of a response of this tenant, or None, whosever it is."""
        entry = self._entries.get(response_id)
        return entry.rerank if entry is not None and entry.tenant == tenant else None

    def user_of(self, response_id: str, tenant: str) -> str | None:
        """The `user` that a response of this tenant was for, if its request named one."""
        entry = self._entries.get(response_id)
        return entry.user if entry is not None and entry.tenant == tenant else None

    def forget_user(self, tenant: str, user: str) -> int:
        """Forget the responses to a tenant's user; how many there were."""
        return self.forget_digest(tenant, user_digest(user))

    def forget_digest(self, tenant: str, digest: str) -> int:
        """The same by the digest of the user's name, which is all that other processes are told."""
        names = [
            name
            for name, entry in self._entries.items()
            if entry.tenant == tenant and entry.user is not None and user_digest(entry.user) == digest
        ]
        for name in names:
            del self._entries[name]
        return len(names)
