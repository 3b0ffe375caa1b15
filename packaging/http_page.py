"""Text of docs/reference/http_api.md, and the OpenAPI document beside it, from the gateway's app."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from service.app import create_app
from service.keys.key_file import add_key
from service.settings import load_settings

Node = Mapping[str, Any]

INTRODUCTION = """# HTTP API

Every path under `/v1/` requires `Authorization: Bearer KEY`. Errors have OpenAI's shape:
`{"error": {"message", "type", "param", "code"}}`. This page is generated from the [OpenAPI document](openapi.json); a
running gateway serves its own at `/openapi.json`.
"""


def document() -> str:
    """The OpenAPI document, as JSON."""
    return json.dumps(_openapi(), indent=1, ensure_ascii=False) + "\n"


def page() -> str:
    """The page."""
    openapi = _openapi()
    schemas = openapi.get("components", {}).get("schemas", {})
    lines = [INTRODUCTION]
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            lines += [*_operation(f"{method.upper()} {path}", operation)]
    shown = {name: schema for name, schema in sorted(schemas.items()) if name not in _VALIDATION}
    if shown:
        lines += ["## Schemas", ""]
    for name, schema in shown.items():
        lines += [f"### {name}", "", *_described(schema), *_fields(schema)]
    return "\n".join(lines)


# FastAPI adds these to every path with parameters; the gateway answers with its own error body.
_VALIDATION = ("HTTPValidationError", "ValidationError")


def _openapi() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys.json"
        add_key(keys, "reference", "admin")
        return create_app(load_settings(keys_file=keys)).openapi()


def _operation(heading: str, operation: Node) -> Iterator[str]:
    yield f"## {heading}"
    yield ""
    yield from _described(operation)
    if parameters := operation.get("parameters"):
        yield "| parameter | in | type | meaning |"
        yield "|---|---|---|---|"
        for parameter in parameters:
            kind, text = _type(parameter["schema"]), _cell(parameter.get("description", ""))
            required = " (required)" if parameter.get("required") and parameter["in"] != "path" else ""
            yield f"| `{parameter['name']}` | {parameter['in']} | {kind}{required} | {text} |"
        yield ""
    if body := operation.get("requestBody"):
        for media, content in body["content"].items():
            yield f"Request body (`{media}`): {_type(content.get('schema', {}))}."
            yield ""
            yield from _fields(content.get("schema", {}))
    for status, response in operation["responses"].items():
        content = response.get("content", {})
        if status == "422" and "HTTPValidationError" in json.dumps(content):
            continue
        kinds = {f"`{media}`": _type(part.get("schema", {})) for media, part in content.items()}
        text = "; ".join(f"{media}: {kind}" if kind else media for media, kind in kinds.items())
        name = response.get("description", "").rstrip(".")
        if name == "Successful Response":
            name = HTTPStatus(int(status)).phrase
        yield f"- **{status}** {name}{f' ({text})' if text else ''}"
    yield ""


def _described(node: Node) -> list[str]:
    return [node["description"].strip(), ""] if node.get("description") else []


def _fields(schema: Node) -> Iterator[str]:
    if "enum" in schema:
        yield f"One of {', '.join(f'`{choice}`' for choice in schema['enum'])}."
        yield ""
    if not schema.get("properties"):
        return
    required = schema.get("required", ())
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in schema["properties"].items():
        default = f"`{json.dumps(field['default'])}`" if field.get("default") is not None else ""
        if name in required:
            default = "required"
        yield f"| `{name}` | {_type(field)} | {default} | {_cell(field.get('description', ''))} |"
    yield ""


def _type(schema: Node) -> str:
    """A schema in a few words, with links to those that have a name."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if parts := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        kinds = [kind for part in parts if part.get("type") != "null" and (kind := _type(part))]
        return " or ".join(dict.fromkeys(kinds))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if schema.get("type") == "array":
        return f"array of {_type(schema.get('items', {})) or 'anything'}"
    return " ".join([str(schema.get("type", "")), *_bounds(schema)]).strip()


def _bounds(schema: Node) -> Iterator[str]:
    names = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    yield from (f"{sign} {schema[name]:g}" for name, sign in names.items() if name in schema)
    if "maxLength" in schema:
        yield f"of at most {schema['maxLength']} characters"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")
