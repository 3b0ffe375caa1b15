from __future__ import annotations

import json
from pathlib import Path

import pytest

from reward_model.digests import sha256_of
from reward_model.errors import IntegrityError
from reward_model.model.base_model import cache_folder, verify, weights_sha256


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WINNOW_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/winnow")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/winnow")
    monkeypatch.setenv("WINNOW_CACHE_DIR", "/mine")
    assert cache_folder() == Path("/mine")


def test_weights_that_changed_since_they_were_prepared_are_found(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    # As `printf weights | sha256sum` says.
    assert sha256_of(weights) == "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    (tmp_path / "winnow.json").write_text(json.dumps({"weights_sha256": sha256_of(weights)}))
    verify(tmp_path)
    assert weights_sha256(tmp_path) == sha256_of(weights)
    weights.write_bytes(b"weightz")
    with pytest.raises(IntegrityError, match="has changed"):
        verify(tmp_path)
