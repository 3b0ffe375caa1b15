"""Peers' environments: made once, anew when what they are made of changes, with pip's reason when they cannot be."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from loadtest.bench.environments import EnvironmentRecipe, environment
from loadtest.bench.processes import BenchError


def wheel(folder: Path, name: str, *, needs: str = "") -> str:
    """A package with nothing but metadata, installable without an index."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + (f"Requires-Dist: {needs}\n" if needs else "")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "LOADED = True\n")
        archive.writestr(f"{name}-1.0.dist-info/METADATA", about)
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return str(path)


def imports(place: Path, name: str) -> bool:
    return subprocess.run([place / "python", "-c", f"import {name}"], capture_output=True).returncode == 0


def test_an_environment_is_made_once_and_anew_when_its_recipe_changes(tmp_path: Path) -> None:
    said: list[str] = []
    one, lone = wheel(tmp_path, "peer_one"), wheel(tmp_path, "peer_alone", needs="nobody-has-this==9.9")
    place = environment(tmp_path / "all", "peer", EnvironmentRecipe((one,)), said.append)
    assert imports(place, "peer_one")
    assert not imports(place, "pytest")
    assert environment(tmp_path / "all", "peer", EnvironmentRecipe((one,)), said.append) == place
    assert len(said) == 1
    environment(tmp_path / "all", "peer", EnvironmentRecipe((one,), alone=(lone,)), said.append)
    assert imports(place, "peer_alone")
    assert len(said) == 2


def test_what_pip_cannot_install_is_said_and_tried_again_the_next_time(tmp_path: Path) -> None:
    said: list[str] = []
    recipe = EnvironmentRecipe(("--no-index", str(tmp_path / "missing-1.0-py3-none-any.whl")))
    for _ in range(2):
        with pytest.raises(BenchError, match=r"environment of peer cannot be made: (.|\n)*missing"):
            environment(tmp_path, "peer", recipe, said.append)
    assert len(said) == 2
