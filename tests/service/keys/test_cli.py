"""`winnow key` on a file."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.keys.key_file import read_keys
from service.keys.keyring import Keyring


def key(*arguments: str, path: Path) -> Result:
    return CliRunner().invoke(app, ["key", *arguments, "--keys", str(path)])


def test_make_list_and_revoke(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    made = key("make", "acme", "--role", "operator", "--name", "anna", "--tenants", "acme, other", path=path)
    assert made.exit_code == 0, made.output
    (stored,) = read_keys(path)
    assert made.stdout.startswith("wk-")
    assert made.stdout.count("\n") == 1, "the key alone, for a script"
    assert stored.id in made.stderr
    assert Keyring(path).identify(f"Bearer {made.stdout.strip()}").visible == frozenset(("acme", "other"))
    listed = key("list", path=path).stdout
    for cell in (stored.id, "acme", "operator", "anna", "acme,other"):
        assert cell in listed
    assert stored.sha256 not in listed
    (row,) = [json.loads(line) for line in key("list", "--json", path=path).stdout.splitlines()]
    assert (row["id"], row["name"], "sha256" in row) == (stored.id, "anna", False)
    assert key("revoke", stored.id, path=path).exit_code == 0
    assert read_keys(path) == []
    again = key("revoke", stored.id, path=path)
    assert (again.exit_code, "winnow key list" in again.stderr) == (2, True)


def test_the_short_form_makes_a_key(tmp_path: Path) -> None:
    made = key("acme", path=tmp_path / "keys.json")
    assert made.stdout.startswith("wk-")
    assert read_keys(tmp_path / "keys.json")[0].role == "client"


@pytest.mark.parametrize(
    ("expires", "span"),
    [
        ("90d", datetime.timedelta(days=90)),
        ("12h", datetime.timedelta(hours=12)),
        ("30m", datetime.timedelta(minutes=30)),
    ],
)
def test_a_span_counts_from_now(tmp_path: Path, expires: str, span: datetime.timedelta) -> None:
    path, before = tmp_path / "keys.json", datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    key("make", "acme", "--expires", expires, path=path)
    until = read_keys(path)[0].expires_at
    assert until is not None
    assert before + span <= until <= datetime.datetime.now(datetime.UTC) + span


def test_a_date_is_midnight_utc(tmp_path: Path) -> None:
    key("make", "acme", "--expires", "2100-01-31", path=tmp_path / "keys.json")
    assert read_keys(tmp_path / "keys.json")[0].expires_at == datetime.datetime(2100, 1, 31, tzinfo=datetime.UTC)


@pytest.mark.parametrize("expires", ["soon", "0d", "-1d", "2020-01-01", "90"])
def test_what_is_no_time_to_come_is_refused(tmp_path: Path, expires: str) -> None:
    refused = key("make", "acme", f"--expires={expires}", path=tmp_path / "keys.json")
    assert refused.exit_code == 2
    assert not (tmp_path / "keys.json").exists()


def test_the_settings_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_KEYS_FILE", str(tmp_path / "keys.json"))
    assert CliRunner().invoke(app, ["key", "make", "acme"]).exit_code == 0
    assert len(read_keys(tmp_path / "keys.json")) == 1
    monkeypatch.delenv("WINNOW_KEYS_FILE")
    refused = CliRunner().invoke(app, ["key", "list"])
    assert (refused.exit_code, "--keys" in refused.stderr) == (2, True)
