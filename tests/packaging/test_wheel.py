"""The wheel, built and installed by itself, has everything it needs to route and to start."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = Path(sys.prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    # Built from what git would check out, not from what lies about.
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, tracked):
        origin, target = ROOT / name.decode(), source / name.decode()
        if origin.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(origin.read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (found,) = out.glob("*.whl")
    return found


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
