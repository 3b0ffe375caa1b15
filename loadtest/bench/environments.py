"""Peers live in environments of their own, made here and kept, never among the project's dependencies."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loadtest.bench.processes import BenchError

_MADE = "made-of.txt"
LITELLM, ROUTER, ITS_HUB, OPTILLM = "LiteLLM", "vllm-router", "its_hub", "optillm"


@dataclass(frozen=True)
class EnvironmentRecipe:
    """What pip installs; `alone` without its dependencies, where it names far more than what is measured imports."""

    requirements: tuple[str, ...]
    alone: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join((*self.alone, *self.requirements))


RECIPES = {
    LITELLM: EnvironmentRecipe(("litellm[proxy]==1.106.2",)),
    ROUTER: EnvironmentRecipe(("vllm-router==0.1.17",)),
    ITS_HUB: EnvironmentRecipe(("its_hub[iaas]==1.2.0",)),
    # It asks for 40 packages, torch, spaCy and a browser driver among them; best-of-n needs none of those.
    OPTILLM: EnvironmentRecipe(
        (
            *("openai==2.54.0", "cerebras_cloud_sdk==1.91.0", "Flask==3.1.3", "aiohttp==3.14.5", "PyYAML==6.0.3"),
            *("requests==2.34.2", "z3-solver==4.15.4.0", "math-verify==0.9.0", "networkx==3.6.1", "scipy==1.17.1"),
        ),
        alone=("optillm==0.4.0",),
    ),
}


def environment(folder: Path, name: str, recipe: EnvironmentRecipe, say: Callable[[str], None]) -> Path:
    """The `bin` folder of a virtual environment with just what the recipe names, made anew when that has changed.

    Raises BenchError when pip cannot make it.
    """
    place, wanted = folder / name, f"{recipe}\n"
    made = place / _MADE
    if made.is_file() and made.read_text() == wanted:
        return place / "bin"
    say(f"making an environment for {name}: {recipe}")
    shutil.rmtree(place, ignore_errors=True)
    install = [str(place / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    commands = [[sys.executable, "-m", "venv", str(place)], [*install, *recipe.requirements]]
    if recipe.alone:
        commands.append([*install, "--no-deps", *recipe.alone])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            tail = "\n".join((done.stderr or done.stdout).splitlines()[-5:])
            raise BenchError(f"the environment of {name} cannot be made: {tail}")
    made.write_text(wanted)
    return place / "bin"
