"""The wheel, built and installed by itself, has everything it needs to route and to start."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SITE = Path(sys.prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

pytestmark = pytest.mark.timeout(300)


PACKAGES = ("service", "routing", "reward_model", "loadtest")
# Recipes are named by their paths in a checkout, and the bench reads its own text there.
LEFT_OUT = ("reward_model/recipes/", "loadtest/bench/long_preamble.txt")


class Build(NamedTuple):
    """A wheel, and what was printed while it was made."""

    wheel: Path
    output: str


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [name for name in listed.decode().split("\0") if name]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, tracked: list[str]) -> Build:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    # Built from what git would check out, not from what lies about.
    for name in tracked:
        origin, target = ROOT / name, source / name
        if origin.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(origin.read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (found,) = out.glob("*.whl")
    return Build(found, done.stdout)


@pytest.fixture(scope="module")
def wheel(build: Build) -> Path:
    return build.wheel


def test_it_is_built_without_a_warning(build: Build) -> None:
    heard = [line for line in build.output.splitlines() if "warning" in line.lower() or line == "!!"]
    assert [line for line in heard if "byte-compiling is disabled" not in line] == []


def test_every_file_of_the_packages_is_in_it(wheel: Path, tracked: list[str]) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.split("/")[0] in PACKAGES}
    kept = {name for name in tracked if name.split("/")[0] in PACKAGES and (ROOT / name).is_file()}
    assert held == {name for name in kept if not name.startswith(LEFT_OUT)}
    assert "service/store/migrations/env.py" in held, "without it no store can be made"


def test_bundled_models_and_types_are_in_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in ("service/py.typed", "routing/bundled/", "reward_model/bundled/winnow-orm/3/manifest.json"):
        assert any(name.startswith(wanted) for name in names), wanted
    assert not any(name.startswith("tests/") for name in names)
    assert not any(name.endswith((".pkl", ".pickle", ".bin", ".pt")) for name in names)


def test_it_routes_from_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--no-deps", "--quiet", str(wheel)], check=True)
    # The libraries are borrowed from the test environment; the project comes from the wheel alone.
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    borrowed = tmp_path / "borrowed"
    borrowed.mkdir()
    for entry in SITE.iterdir():
        if not entry.name.startswith(("__editable__", "winnow_rerank", "service", "routing")):
            (borrowed / entry.name).symlink_to(entry)
    (site / "borrowed.pth").write_text(f"{borrowed}\n")
    done = subprocess.run(
        [tmp_path / "env" / "bin" / "winnow", "route", "-"],
        input='{"text": "why was I charged twice on my bill"}\n',
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"route": "billing"' in done.stdout.replace('":"', '": "')
