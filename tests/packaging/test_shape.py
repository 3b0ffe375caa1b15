"""Sizes that keep the code readable: functions that fit on a screen, one noun a file."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]
LONGEST_FUNCTION = 40
MEDIAN_MODULE = 200
MOST_MODULES = 14
PACKAGES = ("service", "routing", "reward_model", "loadtest")


def _modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """A command's options are not counted: their help is a page of its own."""
    is_command = any("command(" in ast.unparse(decorator) for decorator in function.decorator_list)
    begin = function.body[0].lineno if is_command else function.lineno
    return (function.end_lineno or begin) - begin + 1


@pytest.mark.parametrize("package", PACKAGES)
def test_no_function_is_longer_than_a_screen(package: str) -> None:
    long = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}: {_lines(function)} lines"
        for path in _modules(package)
        for function in _functions(path)
        if _lines(function) > LONGEST_FUNCTION
    ]
    assert not long, f"split into pieces that have names of their own: {long}"


@pytest.mark.parametrize("package", PACKAGES)
def test_half_of_the_modules_are_short(package: str) -> None:
    lengths = [len(path.read_text(encoding="utf-8").splitlines()) for path in _modules(package)]
    assert median(lengths) < MEDIAN_MODULE


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_has_too_many_modules(package: str) -> None:
    folders = Counter(path.parent.relative_to(ROOT) for path in _modules(package) if path.name != "__init__.py")
    full = {str(folder): count for folder, count in folders.items() if count > MOST_MODULES}
    assert not full, f"group what belongs together: {full}"


def test_a_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = {}
    for path in (path for package in PACKAGES for path in _modules(package)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert not twice, f"one name is one thing: {twice}"
