"""The README's blocks run: its questions against the real stack, its commands as typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
# Commands that name machines or models which only a reader has, or that install.
NOT_HERE = ("gpu-host", "Qwen/", "Skywork/", "pip install")


def _lines(language: str, starting: str) -> list[str]:
    text = "\n".join(body for kind, body in BLOCKS if kind == language).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith(starting)]


def _bash(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path} | environment,
        cwd=ROOT,
        timeout=300,
    )


@pytest.mark.parametrize("line", _lines("sh", "make "))
def test_make_knows_its_targets(line: str) -> None:
    assert _bash(f"{line.split('#')[0]} --dry-run").returncode == 0


def test_the_curl_answers(stack: Any) -> None:
    (block,) = [body for kind, body in BLOCKS if kind == "sh" and body.startswith("curl")]
    done = _bash("curl -sf" + block[4:].replace("http://127.0.0.1:8000", stack.url), WINNOW_KEY=stack.key)
    assert done.returncode == 0, done.stderr
    assert '"decision"' in done.stdout
    assert done.stdout.count('"probability"') == 9


def test_the_python_block_runs(stack: Any) -> None:
    (block,) = [body for kind, body in BLOCKS if kind == "python"]
    code = block.replace("http://127.0.0.1:8000", stack.url)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"WINNOW_KEY": stack.key},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "'score'" in done.stdout


@pytest.mark.parametrize("line", _lines("sh", "echo "))
def test_file_commands_run(line: str) -> None:
    done = _bash(line)
    assert done.returncode == 0, done.stderr
    assert '"route"' in done.stdout or '"scores"' in done.stdout


def test_the_toml_block_is_valid_configuration(tmp_path: Path) -> None:
    from service.settings import load_settings

    (block,) = [body for kind, body in BLOCKS if kind == "toml"]
    (tmp_path / "winnow.toml").write_text(block)
    settings = load_settings(tmp_path / "winnow.toml")
    assert settings.routes["billing"].n == 4
    assert settings.router.rules[0].name == "chargeback"


def test_every_other_command_is_one_of_ours() -> None:
    from service.cli import COMMANDS

    for line in _lines("sh", "winnow "):
        assert line.split()[1] in COMMANDS
        assert any(word in line for word in NOT_HERE)
