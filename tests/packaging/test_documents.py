"""What the documents tell a reader to type exists: every command, every option; every file of settings is read."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.cli import COMMANDS, load
from service.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    (document.name, language, body)
    for document in DOCUMENTS
    for language, body in re.findall(r"```(\w+)\n(.*?)```", document.read_text(), flags=re.DOTALL)
]


def _typed() -> list[tuple[str, str]]:
    found = []
    for name, language, body in BLOCKS:
        if language in ("sh", "bash"):
            lines = body.replace("\\\n", " ").splitlines()
            found += [(name, line.split(" #")[0].strip()) for line in lines]
    # Variables before it, and what it is piped from.
    calls = [(name, re.search(r"(?:^|\s|bin/)winnow (.*)", line)) for name, line in found]
    return [(name, match[1]) for name, match in calls if match]


@pytest.mark.parametrize(("document", "line"), _typed())
def test_a_command_that_is_shown_exists(document: str, line: str) -> None:
    words = shlex.split(line.split("|")[0].split(">")[0])
    assert words[0] in COMMANDS, line
    command: Any = load(words[0])
    rest = words[1:]
    if hasattr(command, "commands") and not rest[0].startswith("-"):
        assert rest[0] in command.commands, line
        command, rest = command.commands[rest[0]], rest[1:]
    rest = [word.strip("[]") for word in rest]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    if not command.ignore_unknown_options:
        assert {word.split("=")[0] for word in rest if word.startswith("--")} <= known | {"--help"}, line


# The others are recipes of the trainer.
SETTINGS = re.compile(r"^\[*(routes|router|store|policies)", flags=re.MULTILINE)
SHOWN = [(name, body) for name, kind, body in BLOCKS if kind == "toml" and SETTINGS.search(body)]


@pytest.mark.parametrize(("document", "body"), SHOWN)
def test_settings_that_are_shown_are_read(document: str, body: str, tmp_path: Path) -> None:
    (tmp_path / "winnow.toml").write_text(body)
    load_settings(tmp_path / "winnow.toml")


def test_the_settings_page_is_current_and_describes_every_setting() -> None:
    done = subprocess.run([sys.executable, ROOT / "packaging" / "settings_page.py", "--check"], check=False)
    assert done.returncode == 0, "run `make settings`"
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert all(f"`WINNOW_{name.upper()}`" in page for name in Settings.model_fields)
    assert "None |" not in page.replace("`None` |", "")
