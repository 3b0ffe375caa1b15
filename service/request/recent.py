"""The `rerank` objects of recent responses, for lookup by id: bounded, in memory, by tenant."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any


class RecentResponses:
    """The last `limit` responses; an older one, or another tenant's, is not found."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: OrderedDict[str, tuple[str, str | None, dict[str, Any]]] = OrderedDict()

    def remember(self, response_id: str, tenant: str, rerank: dict[str, Any], user: str | None = None) -> None:
        """Keep a response, forgetting the oldest when there are too many."""
        self._entries[response_id] = (tenant, user, rerank)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def get(self, response_id: str, tenant: str) -> dict[str, Any] | None:
        """The `rerank` object of a response of this tenant, or None, whosever it is."""
        owner, _, rerank = self._entries.get(response_id, (None, None, {}))
        return rerank if owner == tenant else None

    def forget_user(self, tenant: str, user: str) -> int:
        """Forget the responses to a tenant's user; how many there were."""
        gone = [name for name, entry in self._entries.items() if entry[:2] == (tenant, user)]
        for name in gone:
            del self._entries[name]
        return len(gone)
