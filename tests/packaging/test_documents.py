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
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    (document.relative_to(ROOT).as_posix(), language, body)
    for document in DOCUMENTS
    for language, body in re.findall(r"```(\w+)\n(.*?)```", document.read_text(), flags=re.DOTALL)
]


# At the start of a line or of a pipe's part, with variables before it.
_CALL = re.compile(r"(?:^|[|&;]\s*)(?:\w+=\S*\s+)*(?:\S*bin/)?winnow (.*)")


def _typed() -> list[tuple[str, str]]:
    lines = []
    for name, language, body in BLOCKS:
        if language in ("sh", "bash"):
            shown = body.replace("\\\n", " ").splitlines()
            lines += [(name, line.split(" #")[0].strip()) for line in shown]
    calls = [(name, _CALL.search(line)) for name, line in lines]
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
    if not command.context_settings.get("ignore_unknown_options"):
        assert {word.split("=")[0] for word in rest if word.startswith("--")} <= known | {"--help"}, line


# The others are recipes of the trainer.
SETTINGS = re.compile(r"^\[*(routes|router|store|policies)", flags=re.MULTILINE)
SHOWN = [(name, body) for name, kind, body in BLOCKS if kind == "toml" and SETTINGS.search(body)]


@pytest.mark.parametrize(("document", "body"), SHOWN)
def test_settings_that_are_shown_are_read(
    document: str, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r'^instructions_file = "(.+)"', body, flags=re.MULTILINE):
        (tmp_path / name).write_text("You answer for a bank.")
    (tmp_path / "winnow.toml").write_text(body)
    load_settings(tmp_path / "winnow.toml")


def test_generated_pages_are_current() -> None:
    script = ROOT / "packaging" / "reference_pages.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


REFERENCE = ROOT / "docs" / "reference"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_reference_has_every_setting(name: str) -> None:
    assert f"`WINNOW_{name.upper()}`" in (REFERENCE / "settings.md").read_text()


def test_every_setting_is_described() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", (REFERENCE / "settings.md").read_text(), flags=re.MULTILINE)
    assert len(rows) > 100
    assert [name for name, meaning in rows if not meaning.strip()] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_has_every_command(name: str) -> None:
    assert f"\n## winnow {name}\n" in (REFERENCE / "cli.md").read_text()


def test_every_file_that_is_mentioned_exists() -> None:
    """In code spans and links of documents, and in comments and messages of the code."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    texts = [name for name in tracked if name.endswith((".py", ".md", ".toml", ".yaml", ".yml", "Makefile"))]
    missing = [
        (name, mention)
        for name in texts
        if (ROOT / name).is_file() and name != "CHANGELOG.md"
        for mention in re.findall(r"(?<![\w/.-])docs/[\w/-]+\.(?:md|html|json|svg)\b", (ROOT / name).read_text())
        if not (ROOT / mention).is_file()
    ]
    assert not missing


def test_the_worked_change_of_contributing_applies() -> None:
    (diff,) = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    done = subprocess.run(
        ["git", "apply", "--check", "--unidiff-zero", "-"],
        cwd=ROOT,
        input=diff,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
