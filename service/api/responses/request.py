"""A request of the Responses API as a chat request."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from service.api.responses.items import Conversation, Turns
from service.errors import InvalidRequest
from service.request.schemas.fields import NullsAbsent, Whole, refuse

_MOST_TOKENS = 2**31 - 1
# Parameters of a chat request that this API calls otherwise or knows nothing of.
_CHAT_ONLY = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "n": 'one answer, or {"rerank": {"return_candidates": true}}',
    "logprobs": "/v1/chat/completions",
}


def _stateless(instead: str) -> BeforeValidator:
    return BeforeValidator(lambda value: refuse(f"is not supported: {instead}") if value else None)


def _items(given: Any) -> Any:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


class FunctionTool(NullsAbsent):
    """A function that the model may call; the only kind of tool here."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextFormat(NullsAbsent):
    """What the text has to be."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextOptions(NullsAbsent):
    """Options of the text."""

    format: TextFormat = Field(default_factory=TextFormat)
    verbosity: str | None = None


class ReasoningOptions(NullsAbsent):
    """Options of reasoning."""

    effort: str | None = None


class ResponseRequest(NullsAbsent):
    """OpenAI's request for a response. Further fields are those of a chat request that have the same name there."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"examples": [{"model": "winnow", "input": "Name three trees."}]}
    )

    model: str
    input: Annotated[
        list[dict[str, Any]], BeforeValidator(_items, json_schema_input_type=str | list[dict[str, Any]])
    ] = Field(min_length=1)
    instructions: str | None = None
    max_output_tokens: Whole | None = Field(None, ge=1, le=_MOST_TOKENS)
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    tools: list[FunctionTool] = Field(default_factory=list)
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: TextOptions = Field(default_factory=TextOptions)
    reasoning: ReasoningOptions = Field(default_factory=ReasoningOptions)
    metadata: dict[str, Any] = Field(default_factory=dict)
    store: bool | None = None
    include: list[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    top_logprobs: Annotated[Any, _stateless("ask /v1/chat/completions for logprobs")] = None
    max_tool_calls: Whole | None = None
    service_tier: str | None = None

    previous_response_id: Annotated[
        Any, _stateless("nothing is kept between requests; send the whole conversation")
    ] = None
    conversation: Annotated[Any, _stateless("nothing is kept between requests; send the whole conversation")] = None
    background: Annotated[Any, _stateless("send the request with stream: true")] = None
    prompt: Annotated[Any, _stateless("send the prompt's text as instructions or input")] = None

    def to_chat(self) -> tuple[dict[str, Any], Turns]:
        """The same as a chat request, and which turn came from which item."""
        extra = self.model_extra or {}
        if wrong := next((name for name in _CHAT_ONLY if name in extra), None):
            raise InvalidRequest(f"{wrong} is no parameter of this API; send {_CHAT_ONLY[wrong]}", param=wrong)
        conversation = Conversation(self.instructions)
        for index, item in enumerate(self.input):
            conversation.add(index, item)
        chat = {
            **extra,
            "model": self.model,
            "messages": conversation.messages,
            "stream": self.stream,
            "stream_options": {"include_usage": True} if self.stream else None,
            "max_completion_tokens": self.max_output_tokens,
            "tools": [_tool(tool) for tool in self.tools],
            "tool_choice": _tool_choice(self.tool_choice),
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": _format(self.text.format),
            "reasoning_effort": self.reasoning.effort,
            "verbosity": self.text.verbosity,
            "metadata": self.metadata,
        }
        return {name: value for name, value in chat.items() if value is not None}, conversation.turns


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _format(text: TextFormat) -> dict[str, Any] | None:
    if text.type != "json_schema":
        return None if text.type == "text" else {"type": text.type}
    schema = {
        "name": text.name or "answer",
        "description": text.description,
        "schema": text.schema_,
        "strict": text.strict,
    }
    return {"type": "json_schema", "json_schema": {name: value for name, value in schema.items() if value is not None}}
