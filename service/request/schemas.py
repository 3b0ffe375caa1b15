"""What clients send: OpenAI's chat request and the `rerank` object beside it."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import InvalidRequest

# Sampling and format options that go to the policy as they came.
PASSED_ON = (
    "top_p",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "top_k",
    "min_p",
    "repetition_penalty",
)
_MOST_SEEDS = 2**63 - 1
Body = TypeVar("Body", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TextPart(_Strict):
    """One part of a message's content; only text can be scored."""

    type: Literal["text"]
    text: str


class ToolCall(BaseModel):
    """A call that the assistant made."""

    model_config = ConfigDict(extra="ignore")

    id: str | None = None
    type: Literal["function"] = "function"
    function: dict[str, Any]


class Message(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class RerankOptions(_Strict):
    """How this request is to be reranked; every field is bounded by the route's settings."""

    mode: Literal["auto", "off", "best_of_n"] = "auto"
    n: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    budget_ms: int | None = Field(None, gt=0)
    accept_threshold: float | None = Field(None, ge=0, le=1)
    return_candidates: bool = False
    locale: str | None = Field(
        None, pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$", description="BCP 47; picks the reward model's own head."
    )


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class ChatRequest(_Strict):
    """OpenAI's chat completion request. Anything that is not listed here is refused, not ignored."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=1000)
    rerank: RerankOptions = Field(default_factory=RerankOptions)
    n: int = Field(1, ge=1, le=128)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-_MOST_SEEDS, le=_MOST_SEEDS)

    top_p: float | None = Field(None, gt=0, le=1)
    stop: str | list[str] | None = None
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)

    # Accepted because OpenAI's clients send them; they change nothing here.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    modalities: list[Literal["text"]] | None = None

    def sampling_options(self) -> dict[str, Any]:
        """What goes to the policy beside messages, seed, temperature and limits."""
        return self.model_dump(include=set(PASSED_ON), exclude_none=True)

    def policy_messages(self) -> list[dict[str, Any]]:
        """The conversation as the policy and the reward model get it."""
        return [message.model_dump(exclude_none=True) for message in self.messages]


def parse_chat_request(body: bytes) -> ChatRequest:
    """A checked request; raises InvalidRequest that names the field at fault."""
    return parse(body, ChatRequest)


def parse(body: bytes, model: type[Body]) -> Body:
    """A checked body; raises InvalidRequest that names the field at fault."""
    try:
        raw = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON in UTF-8: {error}", code="invalid_json") from error
    if not isinstance(raw, dict):
        raise InvalidRequest("the body must be a JSON object", code="invalid_json")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise _named(error) from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply", code="invalid_json") from error


def _named(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(step) for step in first["loc"]) or "body"
    if first["type"] == "extra_forbidden":
        return InvalidRequest(f"{where} is not a parameter of this API", param=where, code="unknown_parameter")
    return InvalidRequest(f"{where}: {first['msg']}", param=where)
