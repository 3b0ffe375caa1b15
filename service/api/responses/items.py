"""Items of the Responses API as the turns of a chat."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from service.errors import InvalidRequest

# Of a chat request, as this API has them.
_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
_TEXT = {"input_text", "output_text", "text", "summary_text"}


@dataclass(frozen=True)
class Turns:
    """Which item each turn came from, to name the item where the turn is at fault."""

    items: list[int | None]

    def renamed(self, error: InvalidRequest) -> InvalidRequest:
        """An error about a chat request as one about the request that it was made of."""
        if error.param is None:
            return error
        shown = self._path(error.param.split("."))
        message = str(error).replace(error.param, shown, 1)
        return type(error)(message, param=shown, code=error.code)

    def _path(self, steps: list[str]) -> str:
        name, rest = steps[0], steps[1:]
        if name == "messages" and rest:
            item = self.items[int(rest[0])]
            inner = rest[1:] if rest[1:2] == ["content"] else []
            return "instructions" if item is None else ".".join(["input", str(item), *inner])
        if name == "tools":
            rest = [step for step in rest if step != "function"]
        return ".".join([_NAMES.get(name, name), *rest])


@dataclass
class Conversation:
    """Turns as they are put together: the calls that stand side by side are one turn's."""

    instructions: str | None
    messages: list[dict[str, Any]] = field(default_factory=list)
    turns: Turns = field(default_factory=lambda: Turns([]))

    def __post_init__(self) -> None:
        if self.instructions:
            self._append(None, {"role": "system", "content": self.instructions})

    def add(self, index: int, item: dict[str, Any]) -> None:
        """Take in one item; InvalidRequest if it is of a kind that has no place in a chat."""
        kind = item.get("type") or "message"
        if kind == "message":
            self._append(index, {"role": item.get("role"), "content": _content(item.get("content"))})
        elif kind == "function_call":
            self._add_call(index, item)
        elif kind == "function_call_output":
            output = {"role": "tool", "tool_call_id": item.get("call_id"), "content": _content(item.get("output"))}
            self._append(index, output)
        elif kind == "item_reference":
            where = f"input.{index}"
            raise InvalidRequest(f"{where} is a reference, and nothing is kept to refer to; send the item", param=where)
        elif kind != "reasoning":
            where = f"input.{index}.type"
            raise InvalidRequest(
                f"{where} {str(kind)[:64]!r} is not supported; send messages and function calls", param=where
            )

    def _append(self, index: int | None, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self.turns.items.append(index)

    def _add_call(self, index: int, item: dict[str, Any]) -> None:
        call = {"id": item.get("call_id"), "type": "function"}
        call["function"] = {"name": item.get("name"), "arguments": item.get("arguments")}
        last = self.messages[-1] if self.messages else {}
        if last.get("role") == "assistant":
            last.setdefault("tool_calls", []).append(call)
        else:
            self._append(index, {"role": "assistant", "content": None, "tool_calls": [call]})


def _content(content: Any) -> Any:
    """Parts under their names in a chat; what is no text keeps its name, to be refused by it."""
    if not isinstance(content, list):
        return content
    return [
        {**part, "type": "text"} if isinstance(part, dict) and part.get("type") in _TEXT else part for part in content
    ]
