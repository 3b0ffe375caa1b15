"""The functions that a model may call."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from service.request.schemas.fields import NullsAbsent, refuse


class FunctionSignature(NullsAbsent):
    """A function: what it is called, does and takes (JSON Schema)."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_.:/-]{1,128}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(NullsAbsent):
    """A tool; only functions can be offered."""

    type: Literal["function"] = "function"
    function: FunctionSignature


def check_tool_choice(choice: Any) -> Any:
    """`none`, `auto`, `required`, or the function to call."""
    if choice in ("none", "auto", "required"):
        return choice
    function = choice.get("function") if isinstance(choice, dict) and choice.get("type") == "function" else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        refuse('must be "none", "auto", "required" or {"type": "function", "function": {"name": "..."}}')
    return {"type": "function", "function": {"name": function["name"]}}
