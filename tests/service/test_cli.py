"""The command table: lazy, complete, and clear about what is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from service.cli import COMMANDS, Entry, app, load


def test_help_lists_every_command_and_imports_none() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom service.cli import app\n"
        "result = CliRunner().invoke(app, ['--help'])\nassert result.exit_code == 0\nprint(result.output)\n"
        "heavy = {'torch', 'transformers', 'vllm', 'fastapi', 'numpy', 'reward_model', 'routing'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_loads_and_explains_itself(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(app, ["nonsense"])
    assert result.exit_code == 2
    assert "nonsense" in result.output


def test_a_missing_library_names_the_extra_to_install() -> None:
    COMMANDS["ghost"] = Entry("a_library_nobody_has:app", "A ghost.", "train")
    try:
        with pytest.raises(SystemExit) as stopped:
            load("ghost")
    finally:
        del COMMANDS["ghost"]
    assert "a_library_nobody_has" in str(stopped.value)
    assert "winnow-rerank[train]" in str(stopped.value)
