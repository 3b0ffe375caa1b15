from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from reward_model.digests import verify_digests
from reward_model.errors import IntegrityError
from reward_model.registry.placing import (
    INCOMING,
    clear_leftovers,
    copy_visible,
    digests,
    place_folder,
    place_text,
    scratch,
)


def _folder(path: Path, **files: str) -> Path:
    for name, text in files.items():
        file = path / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


def test_a_folder_appears_once(tmp_path: Path) -> None:
    with scratch(tmp_path) as folder:
        place_folder(_folder(folder / "made", a="1"), tmp_path / "x" / "1")
        with pytest.raises(FileExistsError):
            place_folder(_folder(folder / "other", a="2"), tmp_path / "x" / "1")
    assert (tmp_path / "x/1/a").read_text() == "1"
    assert list((tmp_path / INCOMING).iterdir()) == []
    # Readable by others: the server may be another user.
    assert (tmp_path / "x/1").stat().st_mode & 0o055 == 0o055


def test_a_text_replaces_the_one_before(tmp_path: Path) -> None:
    for text in ("one", "two"):
        place_text(text, tmp_path / "a.json", tmp_path)
    assert (tmp_path / "a.json").read_text() == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == [INCOMING, "a.json"]


def test_only_what_is_visible_is_copied_and_links_become_files(tmp_path: Path) -> None:
    source = _folder(tmp_path / "source", a="1", sub__b="2", **{".a.writing": "x", ".cache__c": "x"})
    (source / "linked").symlink_to(source / "a")
    os.utime(source / "a", (0, 0))
    copy_visible(source, tmp_path / "copy")
    assert sorted(p.relative_to(tmp_path / "copy").as_posix() for p in (tmp_path / "copy").rglob("*")) == [
        "a",
        "linked",
        "sub",
        "sub/b",
    ]
    assert not (tmp_path / "copy/linked").is_symlink()
    # The time of writing is what tells that a writer is alive.
    assert (tmp_path / "copy/a").stat().st_mtime > time.time() - 60


def test_leftovers_go_after_an_hour_of_silence(tmp_path: Path) -> None:
    old, busy = (_folder(tmp_path / INCOMING / name, checkpoint__weights="x") for name in ("old", "busy"))
    long_ago = time.time() - 3 * 3600
    for path in [*old.rglob("*"), old, busy, busy / "checkpoint"]:
        os.utime(path, (long_ago, long_ago))
    clear_leftovers(tmp_path)
    assert [path.name for path in (tmp_path / INCOMING).iterdir()] == ["busy"]
    assert (busy / "checkpoint/weights").exists()
    clear_leftovers(tmp_path / "no registry yet")


def test_digests_find_what_changed(tmp_path: Path) -> None:
    folder = _folder(tmp_path, a="1", **{"sub__w.safetensors": "2", ".hidden": "3"})
    files = digests(folder)
    assert files == {"a": hashlib.sha256(b"1").hexdigest(), "sub/w.safetensors": hashlib.sha256(b"2").hexdigest()}
    verify_digests(folder, files)
    _folder(folder, a="2")
    with pytest.raises(IntegrityError, match="a has SHA-256"):
        verify_digests(folder, files)
    (folder / "a").unlink()
    with pytest.raises(IntegrityError, match="a is missing"):
        verify_digests(folder, files)
    _folder(folder, a="1", **{"more.safetensors": ""})
    with pytest.raises(IntegrityError, match=r"more\.safetensors is not listed"):
        verify_digests(folder, files)
