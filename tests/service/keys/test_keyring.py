"""Whose key it is, while the file changes, breaks and is mended."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from service.errors import NotAuthenticated, SetupError
from service.keys.key_file import add_key, read_keys, revoke_key
from service.keys.keyring import Keyring


def test_keys_come_and_go_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first = add_key(path, "acme", "client")
    ring = Keyring(path)
    second = add_key(path, "acme", "admin", replace=True)
    assert ring.identify(f"bearer {second}").role == "admin"
    with pytest.raises(NotAuthenticated):
        ring.identify(f"Bearer {first}")
    revoke_key(path, read_keys(path)[0].id)
    with pytest.raises(NotAuthenticated):
        ring.identify(f"Bearer {second}")


def test_a_key_expires_at_its_time(tmp_path: Path) -> None:
    path, until = tmp_path / "keys.json", datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)
    key, now = add_key(path, "acme", "client", expires_at=until), [until.timestamp() - 1]
    ring = Keyring(path, clock=lambda: now[0])
    assert ring.identify(f"Bearer {key}").tenant == "acme"
    now[0] = until.timestamp()
    with pytest.raises(NotAuthenticated, match="expired at 2100-01-01"):
        ring.identify(f"Bearer {key}")


def test_without_a_file_that_can_be_read_nothing_starts(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="winnow key make TENANT"):
        Keyring(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(SetupError, match=r"bad\.json is not a keys file"):
        Keyring(tmp_path / "bad.json")


@pytest.mark.parametrize("damage", ["{", '{"keys": [{"tenant": "acme"}]}', "[]", None])
def test_a_broken_file_leaves_the_last_good_keys_in_force(
    tmp_path: Path, damage: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "acme", "client")
    ring = Keyring(path)
    good = path.read_bytes()
    path.unlink() if damage is None else path.write_text(damage)
    for _ in range(5):
        assert ring.identify(f"Bearer {key}").tenant == "acme"
    assert "keys.json" in str(ring.problem)
    assert len(caplog.records) == 1, "said once, not for each request"
    path.write_bytes(good)
    other = add_key(path, "other", "client")
    assert ring.identify(f"Bearer {other}").tenant == "other"
    assert ring.problem is None


async def test_a_broken_file_is_seen_from_outside(gateway: Any) -> None:
    async def keys() -> tuple[str, float]:
        health = (await gateway.http.get(f"{gateway.url}/health")).json()
        return health["keys"], gateway.registry.get_sample_value("winnow_keys_file_broken")

    assert await keys() == ("current", 0)
    gateway.keys_file.write_text("{")
    said, broken = await keys()
    assert "cannot be read" in said
    assert broken == 1
    assert (await gateway.ask("hello")).status_code == 200
