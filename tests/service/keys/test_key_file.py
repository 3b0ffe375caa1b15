"""The file of keys: what is kept, who may read it, and two who write it at once."""

from __future__ import annotations

import datetime
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import SetupError
from service.identity import Identity
from service.keys.key_file import add_key, make_key, read_keys, revoke_key
from service.keys.keyring import Keyring


def test_only_the_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.json"
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    key, made = make_key(path, "acme", "operator", name="anna", tenants=("acme", "other"))
    assert key not in path.read_text()
    (stored,) = json.loads(path.read_text())["keys"]
    assert before <= datetime.datetime.fromisoformat(stored.pop("created_at")) <= datetime.datetime.now(datetime.UTC)
    assert stored == {
        "id": made.id,
        "sha256": hashlib.sha256(key.encode()).hexdigest(),
        "tenant": "acme",
        "role": "operator",
        "name": "anna",
        "tenants": ["acme", "other"],
    }
    assert Keyring(path).identify(f"Bearer {key}") == Identity("acme", "operator", "anna", ("acme", "other"))
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o077 == 0, "nobody else reads it"


def test_a_file_of_an_earlier_version_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    sha256 = hashlib.sha256(b"wk-old").hexdigest()
    path.write_text(json.dumps({"keys": [{"sha256": sha256, "tenant": "acme", "role": "client"}]}))
    assert Keyring(path).identify("Bearer wk-old") == Identity("acme", "client")
    (old,) = read_keys(path)
    assert old.id == sha256[:8]
    add_key(path, "acme", "client")
    assert revoke_key(path, sha256[:8]).tenant == "acme"
    assert len(read_keys(path)) == 1


def test_two_who_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    code = "import sys; from pathlib import Path; from service.keys.key_file import add_key\n"
    code += "for number in range(8): add_key(Path(sys.argv[1]), f'{sys.argv[2]}-{number}', 'client')"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("a", "b", "c")]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert {key.tenant for key in read_keys(path)} == {f"{name}-{number}" for name in "abc" for number in range(8)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"role": "king"}, "client, operator, admin"),
        ({"tenant": "a b"}, "tenant: 'a b' is no name"),
        ({"tenant": "*"}, "tenant"),
        ({"name": "Anna Example"}, "name: 'Anna Example'"),
        ({"role": "admin", "tenants": ("a b",)}, "tenants"),
        ({"tenants": ("other",)}, "sees its own tenant only"),
        ({"expires_at": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)}, "has passed"),
    ],
)
def test_what_is_no_key_is_refused_and_changes_nothing(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    path = tmp_path / "keys.json"
    add_key(path, "acme", "client")
    before = path.read_bytes()
    with pytest.raises(SetupError, match=message):
        add_key(path, **({"tenant": "acme", "role": "client"} | fields))  # type: ignore[arg-type]
    assert path.read_bytes() == before


def test_a_file_that_is_none_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("{")
    with pytest.raises(SetupError, match=r"keys\.json is not a keys file"):
        add_key(path, "acme", "client")
    with pytest.raises(SetupError, match="no key of"):
        path.write_text('{"keys": []}')
        revoke_key(path, "abcd1234")
    assert path.read_text() == '{"keys": []}'
