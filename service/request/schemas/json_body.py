"""A body's bytes as a JSON object that everything behind can carry: the policy, the scorer, the store.

Of a key that comes twice the last value counts, as in most JSON readers. NUL cannot be stored in Postgres: in texts for
the model it becomes U+FFFD, as CommonMark has it; anywhere else it is refused.
"""

from __future__ import annotations

from typing import Any

import orjson

from service.errors import InvalidRequest

MAX_DEPTH = 100
_BOM = b"\xef\xbb\xbf"
_TEXT_FIELDS = {"content", "text", "refusal", "prompt", "input", "instructions", "output"}
Path = tuple[str | int, ...]


def read_object(body: bytes) -> dict[str, Any]:
    """The object; InvalidRequest if the body is empty, no JSON, no object, too deep, or has NUL where it may not."""
    body = body.removeprefix(_BOM)
    if not body.strip():
        raise InvalidRequest("the body is empty; send a JSON object", code="invalid_json")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON in UTF-8: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    # Most bodies have fewer brackets than they may have levels, so they need no walk.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        _refuse_deep(value)
    if b"\\u0000" in body:
        _replace_nul(value, ())
    return value


def _refuse_deep(value: dict[str, Any]) -> None:
    for name, field in value.items():
        if is_deeper(field, MAX_DEPTH - 1):
            raise InvalidRequest(f"{name} is nested deeper than {MAX_DEPTH} levels", param=name, code="invalid_json")


def is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects stand in one another more than `levels` deep."""
    boxes = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        members = (item for box in boxes for item in (box.values() if isinstance(box, dict) else box))
        boxes = [item for item in members if isinstance(item, dict | list)]
    return bool(boxes)


def _replace_nul(box: Any, path: Path) -> None:
    for step, item in list(box.items() if isinstance(box, dict) else enumerate(box)):
        here = (*path, step)
        if isinstance(step, str) and "\x00" in step:
            raise _nul(path)
        if isinstance(item, dict | list):
            _replace_nul(item, here)
        elif isinstance(item, str) and "\x00" in item:
            if next((name for name in reversed(here) if isinstance(name, str)), None) not in _TEXT_FIELDS:
                raise _nul(here)
            box[step] = item.replace("\x00", "\ufffd")


def _nul(path: Path) -> InvalidRequest:
    where = ".".join(map(str, path)) or "body"
    return InvalidRequest(f"{where} holds the character NUL (\\u0000); leave it out", param=where)
