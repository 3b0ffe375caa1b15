"""The turns of a conversation, in every shape that OpenAI's clients send."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import SkipJsonSchema

from service.request.schemas.fields import NullsAbsent, deprecated, refuse
from service.request.schemas.json_body import MAX_DEPTH, is_deeper

MessageRole = Literal["system", "developer", "user", "assistant", "tool", "function"]
_MEDIA = {
    "image_url": "an image",
    "image": "an image",
    "input_image": "an image",
    "input_audio": "audio",
    "audio": "audio",
    "audio_url": "audio",
    "video_url": "a video",
    "file": "a file",
    "input_file": "a file",
}


class TextPart(NullsAbsent):
    """A part of a message's content. What the assistant refused with is text that it said."""

    type: Literal["text"] = "text"
    text: str

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, part: Any) -> Any:
        if not isinstance(part, dict):
            refuse('must be an object such as {"type": "text", "text": "..."}')
        kind = part.get("type")
        if kind == "refusal":
            return {"type": "text", "text": part.get("refusal")}
        if isinstance(kind, str) and kind in _MEDIA:
            refuse(f"is {_MEDIA[kind]}; only text can be scored")
        if kind != "text":
            refuse('must have the type "text"; only text can be scored')
        return part


def _arguments(value: Any) -> Any:
    """Arguments as the text of a JSON object, which is what chat templates take.

    A call in the history that was cut off, or whose arguments are no object, becomes one without arguments: an error
    would fail every later turn of the conversation, since clients send the history again each time.
    """
    if isinstance(value, dict):
        return orjson.dumps(value).decode()
    if not isinstance(value, str):
        return value
    try:
        arguments = orjson.loads(value)
    except orjson.JSONDecodeError:
        return "{}"
    if not isinstance(arguments, dict):
        return "{}"
    if is_deeper(arguments, MAX_DEPTH):
        refuse(f"is nested deeper than {MAX_DEPTH} levels")
    return value


class CalledFunction(NullsAbsent):
    """Which function was called, with what."""

    name: str = Field(min_length=1, max_length=256)
    arguments: Annotated[str, BeforeValidator(_arguments, json_schema_input_type=str | dict[str, Any])] = "{}"


class ToolCall(NullsAbsent):
    """A call that the assistant made."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


def _parts(content: Any) -> Any:
    if content is None:
        return None
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        refuse("must be a string or a list of parts")
    return content


class ChatMessage(NullsAbsent):
    """One turn of the conversation."""

    role: MessageRole
    refusal: str | None = None
    content: Annotated[
        list[TextPart] | None, BeforeValidator(_parts, json_schema_input_type=str | list[TextPart] | None)
    ] = Field(None, validate_default=True)
    name: str | None = Field(None, max_length=256)
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = Field(None, max_length=256)
    function_call: SkipJsonSchema[Annotated[Any, deprecated("tool_calls")]] = None

    @field_validator("content")
    @classmethod
    def _says_something(cls, content: list[TextPart] | None, info: ValidationInfo) -> list[TextPart] | None:
        role = info.data.get("role")
        if not content and role in ("user", "system", "developer"):
            refuse(f"is missing, and a turn of the role {role} needs it")
        return content

    def to_policy(self) -> dict[str, Any]:
        """The turn as chat templates take it; many join role and content, so there is always a content."""
        turn: dict[str, Any] = {"role": self.role, "content": self._content()}
        if self.name is not None:
            turn["name"] = self.name
        if self.tool_calls and self.role == "assistant":
            turn["tool_calls"] = [call.model_dump(exclude_none=True) for call in self.tool_calls]
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        return turn

    def _content(self) -> str | list[dict[str, str]]:
        parts = self.content or []
        if len(parts) > 1:
            return [{"type": "text", "text": part.text} for part in parts]
        return parts[0].text if parts else self.refusal or ""
