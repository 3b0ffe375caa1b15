"""The bundled folder is what its manifest says, and nothing else is taken for it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from routing.errors import BundleError
from routing.model.bundle import BUNDLED, ENCODER, FILES, NGRAMS, VOCABULARY, WINDOWS, load_bundle, seal
from routing.model.manifest import MANIFEST, read_manifest


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED, tmp_path / "router"))


def test_the_digests_are_of_the_files() -> None:
    listed = json.loads((BUNDLED / MANIFEST).read_text())["files"]
    actual = {name: hashlib.sha256((BUNDLED / name).read_bytes()).hexdigest() for name in FILES}
    assert listed == actual


def test_it_is_small_and_holds_no_pickle() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 10_000_000
    for file in (NGRAMS, WINDOWS):
        with np.load(BUNDLED / file, allow_pickle=False) as arrays:
            assert {arrays[name].dtype.kind for name in arrays.files} == {"f"}


def test_the_manifest_says_what_was_measured() -> None:
    manifest = read_manifest(BUNDLED)
    assert manifest.calibration.event == "high_stakes"
    assert 0 < manifest.calibration.positives < manifest.calibration.labels
    assert {"banking77", "clinc150", "authored"} <= manifest.figures["test"].keys()
    assert "CC-BY" in manifest.data[0]["note"]


@pytest.mark.parametrize("name", [ENCODER, VOCABULARY, NGRAMS, WINDOWS])
def test_a_changed_or_missing_file_is_refused(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match=f"{name}: not the file that manifest.json lists"):
        load_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=name):
        load_bundle(copy)


def test_a_sealed_folder_of_something_else_is_refused(copy: Path) -> None:
    manifest = read_manifest(copy)
    np.savez(copy / NGRAMS, weights=np.zeros((3, 5)), bias=np.zeros(3), idf=np.zeros(5))
    seal(copy, manifest)
    with pytest.raises(BundleError, match="weights for other features or classes"):
        load_bundle(copy)
    (copy / ENCODER).write_bytes(b"not a graph")
    seal(copy, manifest)
    with pytest.raises(BundleError, match="not a graph that can be served"):
        load_bundle(copy)


def test_no_folder_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no router here"):
        load_bundle(tmp_path)
    (tmp_path / MANIFEST).write_text('{"id": 3}')
    with pytest.raises(BundleError, match="not a router's manifest"):
        load_bundle(tmp_path)
