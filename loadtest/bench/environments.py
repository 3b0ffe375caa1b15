"""Peers live in environments of their own, made here and kept, never among the project's dependencies."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from loadtest.bench.processes import BenchError

_MADE = "made-of.txt"


def environment(folder: Path, name: str, requirements: Sequence[str], say: Callable[[str], None]) -> Path:
    """The `bin` folder of a virtual environment with just these requirements, made anew when they have changed.

    Raises BenchError when pip cannot make it.
    """
    place, wanted = folder / name, "\n".join(requirements) + "\n"
    made = place / _MADE
    if made.is_file() and made.read_text() == wanted:
        return place / "bin"
    say(f"making an environment for {name}: {', '.join(requirements)}")
    shutil.rmtree(place, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(place)],
        [str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *requirements],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            tail = "\n".join((done.stderr or done.stdout).splitlines()[-5:])
            raise BenchError(f"the environment of {name} cannot be made: {tail}")
    made.write_text(wanted)
    return place / "bin"
