"""Responses that are looked up by id."""

from __future__ import annotations

from service.request.recent import RecentResponses


def test_recent_responses_forget_the_oldest_and_keep_tenants_apart() -> None:
    recent = RecentResponses(2)
    for name in ("a", "b", "c"):
        recent.remember(name, "acme", {"id": name})
    assert recent.get("c", "acme") == {"id": "c"}
    for response_id, tenant in (("a", "acme"), ("c", "other"), ("never", "acme")):
        assert recent.get(response_id, tenant) is None
