"""Keys."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from service.api.authentication import Keyring, add_key
from service.errors import Forbidden, NotAuthenticated, SetupError
from service.identity import Identity
from service.request.deadline import Deadline
from service.request.recent import RecentResponses


def test_only_the_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.json"
    key = add_key(path, "acme", "operator")
    assert key not in path.read_text()
    (stored,) = json.loads(path.read_text())["keys"]
    assert stored == {"sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": "acme", "role": "operator"}
    assert Keyring(path).identify(f"Bearer {key}") == Identity("acme", "operator")
    assert path.stat().st_mode & 0o077 == 0, "nobody else reads it"


def test_a_new_key_counts_without_a_restart_and_a_replaced_one_no_more(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first = add_key(path, "acme", "client")
    ring = Keyring(path)
    second = add_key(path, "acme", "admin", replace=True)
    assert ring.identify(f"bearer {second}").role == "admin"
    with pytest.raises(NotAuthenticated):
        ring.identify(f"Bearer {first}")


def test_what_is_wrong_with_a_keys_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="winnow key TENANT"):
        Keyring(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(SetupError, match=r"bad\.json is not a keys file"):
        Keyring(tmp_path / "bad.json")
    with pytest.raises(SetupError, match="client, operator, admin"):
        add_key(tmp_path / "keys.json", "acme", "king")
    with pytest.raises(SetupError, match="tenant"):
        add_key(tmp_path / "keys.json", "a b", "client")


def test_roles_are_required_by_name() -> None:
    Identity("acme", "admin").require("operator", "admin")
    with pytest.raises(Forbidden, match="operator or admin"):
        Identity("acme", "client").require("operator", "admin")


def test_a_deadline_counts_down_and_stays_at_zero() -> None:
    now = [100.0]
    deadline = Deadline(1500, clock=lambda: now[0])
    assert (deadline.remaining(), deadline.remaining_ms(), deadline.passed) == (1.5, 1500, False)
    now[0] = 200.0
    assert (deadline.remaining(), deadline.passed) == (0.0, True)


def test_recent_responses_forget_the_oldest_and_keep_tenants_apart() -> None:
    recent = RecentResponses(2)
    for name in ("a", "b", "c"):
        recent.remember(name, "acme", {"id": name})
    assert recent.get("c", "acme") == {"id": "c"}
    for response_id, tenant in (("a", "acme"), ("c", "other"), ("never", "acme")):
        assert recent.get(response_id, tenant) is None
