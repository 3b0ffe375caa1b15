"""Assigns each streamed fragment to its tool call, even if the policy omits or repeats indices."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass
class _Call:
    position: int
    id: str
    name: str = ""
    arguments: str = ""

    def complete(self) -> bool:
        """Whether its arguments are whole, so that further ones are another call's."""
        try:
            orjson.loads(self.arguments)
        except orjson.JSONDecodeError:
            return False
        return True


class ToolCalls:
    """The tool calls of one streamed completion. Their positions count from 0 in the order in which they begin.

    Policies number calls from 0, number all of them 0, leave the index out or send null; they give each call an id,
    each fragment an id of its own, or none. A fragment begins a call if it has a name and is not a repetition.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}

    def fragment(self, part: dict[str, Any]) -> dict[str, Any]:
        """The fragment as OpenAI sends it: an integer index, an id where its call begins, arguments as text."""
        function = part.get("function")
        function = function if isinstance(function, dict) else {}
        key, name = _text(part.get("id")), _text(function.get("name"))
        index = part.get("index")
        arguments = arguments_text(function.get("arguments"))
        call = self._of(index if type(index) is int else None, key, name, arguments)
        begins = call is None
        if call is None:
            call = _Call(len(self._calls), key or f"call_{secrets.token_hex(12)}")
            self._calls.append(call)
        if type(index) is int:
            self._by_index[index] = call
        return _shown(call, name, arguments, begins=begins)

    def _of(self, index: int | None, key: str, name: str, arguments: str) -> _Call | None:
        """The call that is meant; None for a new one."""
        if index is not None:
            call = self._by_index.get(index)
            if call is None or not name:
                return call
            another = key != call.id if key else bool(arguments) and call.complete()
            return None if another else call
        if same := next((call for call in self._calls if key and call.id == key), None):
            return same
        last = self._calls[-1] if self._calls else None
        if last is None or not name:
            return last
        return None if key or name != last.name or last.complete() else last


def whole_calls(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tool calls of a message that is not streamed: each entry is a call."""
    return [ToolCalls().fragment(part) | {"index": position} for position, part in enumerate(parts)]


def arguments_text(arguments: Any) -> str:
    """A call's arguments as JSON text: some policies send the object itself."""
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()


def _shown(call: _Call, name: str, arguments: str, *, begins: bool) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": arguments}
    # A policy that repeats the name with every fragment does not mean a longer name.
    if begins or (name and name != call.name):
        call.name += name
        function = {"name": name} | function
    call.arguments += arguments
    head = {"id": call.id, "type": "function"} if begins else {}
    return {"index": call.position, **head, "function": function}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
