"""Text of docs/reference/settings.md: a table for each settings class, nested classes in sections of their own."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from reward_model.serving.settings import ScorerSettings
from service.settings import Settings

INTRODUCTION = """# Settings

Each setting comes from the command line, from a `WINNOW_*` environment variable, or from a TOML file (`--config
winnow.toml` or `WINNOW_CONFIG`); if several name it, the first of these wins. Nested settings join their names with two
underscores. `WINNOW_ROUTES__BILLING__N=4` is the same as this file:

```toml
[routes.billing]
n = 4
```

Lists and tables in environment variables are JSON: `WINNOW_ROUTES__BILLING__WAVES='[2, 4, 8]'`.
"""


class Section(NamedTuple):
    """One settings class, and where its fields stand in a file and in the environment."""

    title: str
    model: type[BaseModel]
    table: str
    variables: str | None


def page() -> str:
    """The page."""
    gateway = Section("Gateway", Settings, "", "WINNOW_")
    scorer = Section("Scorer", ScorerSettings, "", "WINNOW_SCORER_")
    lines = [INTRODUCTION]
    for section in (*_nested(gateway), scorer):
        lines += [f"## {section.title}", "", *_place(section), *_rows(section), ""]
    return "\n".join(lines)


def _nested(section: Section) -> Iterator[Section]:
    """The section, then those of its fields, depth first."""
    yield section
    for name, field in section.model.model_fields.items():
        if (inner := _model(field.annotation)) is not None:
            yield from _nested(_inner_section(section, name, field, inner))


def _inner_section(outer: Section, name: str, field: FieldInfo, model: type[BaseModel]) -> Section:
    table = f"{outer.table}.{name}".lstrip(".")
    variables = None if outer.variables is None else f"{outer.variables}{name.upper()}__"
    origin = get_origin(field.annotation)
    if origin is dict:
        return Section(_title(table), model, f"{table}.NAME", variables and f"{variables}NAME__")
    if origin in (tuple, list):
        return Section(_title(table), model, f"[{table}]", None)
    return Section(_title(table), model, table, variables)


def _title(table: str) -> str:
    """`routes.NAME.red_flags` as `Routes: red flags`."""
    return ": ".join(part.replace("_", " ") for part in table.split(".") if part != "NAME").capitalize()


def _model(annotation: Any) -> type[BaseModel] | None:
    """The settings class that an annotation holds, if any."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model(part)) is not None), None)


def _place(section: Section) -> list[str]:
    if not section.table:
        return []
    variables = f", or `{section.variables}*` in the environment" if section.variables else ""
    return [f"`[{section.table}]` in the file{variables}.", ""]


def _rows(section: Section) -> list[str]:
    top = not section.table
    lines = [f"| {'variable' if top else 'setting'} | default | meaning |", "|---|---|---|"]
    for name, field in section.model.model_fields.items():
        shown = f"{section.variables}{name.upper()}" if top else name
        lines.append(f"| `{shown}` | {_default(field)} | {_meaning(section, name, field)} |")
    return lines


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None or _model(field.annotation) is not None:
        return ""
    value = field.get_default()
    if value is None or value in ("", (), {}):
        return "unset"
    if isinstance(value, tuple | list):
        value = json.dumps(value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _meaning(section: Section, name: str, field: FieldInfo) -> str:
    text = (field.description or "").replace("|", r"\|")
    if choices := [f"`{choice}`" for choice in _choices(field.annotation)]:
        text += f" One of {', '.join(choices)}."
    if (model := _model(field.annotation)) is not None:
        title = _inner_section(section, name, field, model).title
        text += f" See [{title}](#{title.lower().replace(':', '').replace(' ', '-')})."
    return text.strip()


def _choices(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(choice for part in get_args(annotation) for choice in _choices(part))
    return ()
