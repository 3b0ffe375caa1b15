"""Text of docs/reference/cli.md, from the commands themselves: what `winnow COMMAND --help` says, as tables."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from enum import Enum
from pathlib import PurePath
from typing import Any

from service.cli import COMMANDS, load

INTRODUCTION = """# Command line

`winnow COMMAND --help` says the same in a terminal. Settings of the gateway and the scorer that have no option here
are in [settings](settings.md). Files are JSON lines; a name that ends in `.gz` is compressed, and `-` is standard input
or output.
"""


def page() -> str:
    """The page."""
    lines = [INTRODUCTION, "| command | does |", "|---|---|"]
    lines += [f"| [`winnow {name}`](#winnow-{name}) | {entry.summary} |" for name, entry in COMMANDS.items()]
    for name, entry in COMMANDS.items():
        lines += ["", f"## winnow {name}", ""]
        if entry.extra:
            lines += [f"Needs the extra `{entry.extra}`: `pip install 'winnow-rerank[{entry.extra}]'`.", ""]
        lines += _command(f"winnow {name}", load(name))
    return "\n".join([*lines, ""])


def _command(name: str, command: Any) -> Iterator[str]:
    members = getattr(command, "commands", {})
    if command.help and not members:
        yield textwrap.dedent(inspect.cleandoc(command.help)).replace("\f", "")
        yield ""
    if not members or command.params:
        yield from _parameters(name, command)
    for member in members.values():
        yield f"### {name} {member.name}"
        yield ""
        yield from _command(f"{name} {member.name}", member)


def _parameters(name: str, command: Any) -> Iterator[str]:
    shown = [parameter for parameter in command.params if not parameter.hidden and parameter.name != "help"]
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    options = [parameter for parameter in shown if parameter.param_type_name == "option"]
    words = [_placeholder(argument) for argument in arguments] + ["[OPTIONS]"] * bool(options)
    words += ["[VLLM OPTIONS]"] * bool(command.context_settings.get("ignore_unknown_options"))
    yield f"```text\n{' '.join([name, *words])}\n```"
    yield ""
    if shown:
        yield "| option | default | meaning |"
        yield "|---|---|---|"
        for parameter in shown:
            yield f"| {_names(parameter)} | {_default(parameter)} | {_escaped(parameter.help or '')} |"
        yield ""


def _placeholder(argument: Any) -> str:
    name = str(argument.name).upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_placeholder(parameter)}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or value is False or value in ((), [], "") or callable(value):
        return ""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, PurePath):
        value = value.as_posix()
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
