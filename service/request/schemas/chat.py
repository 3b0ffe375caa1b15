"""OpenAI's chat completion request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.json_schema import SkipJsonSchema

from service.request.schemas.fields import NullsAbsent, Whole, deprecated, refuse
from service.request.schemas.json_body import read_object
from service.request.schemas.messages import ChatMessage
from service.request.schemas.parameters import ParameterRules, changing_options
from service.request.schemas.problems import validate
from service.request.schemas.rerank import RerankOptions
from service.request.schemas.tools import Tool, check_tool_choice

# Sampling and format options that go to the policy as they came, beside what the operator passes on.
_OPTIONS = {
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
}
_MOST_SEEDS = 2**63 - 1
_MOST_TOKENS = 2**31 - 1
_MOST_STOPS = 16
# What the store has room for.
_MOST_USER = 256


class StreamOptions(NullsAbsent):
    """Options of a stream."""

    include_usage: bool = False


def _stops(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else None if stop == [] else stop


def _nonempty(stop: str) -> str:
    return stop if stop else refuse("must not be empty")


def _bias(bias: dict[str, float]) -> dict[str, float]:
    if wrong := next((token for token in bias if not (token.isascii() and token.isdigit())), None):
        refuse(f"has {wrong[:40]!r}, which is no token id")
    if any(abs(value) > 100 for value in bias.values()):
        refuse("must be between -100 and 100 for each token")
    return bias


def _format(response_format: dict[str, Any]) -> dict[str, Any] | None:
    kind = response_format.get("type")
    if kind == "text":
        return None
    if kind not in ("json_object", "json_schema", "structural_tag"):
        refuse('must have the type "text", "json_object" or "json_schema"')
    schema = response_format.get("json_schema")
    if kind == "json_schema" and not (isinstance(schema, dict) and isinstance(schema.get("schema"), dict)):
        refuse('must have a schema: {"type": "json_schema", "json_schema": {"name": "...", "schema": {...}}}')
    return response_format


class ChatRequest(NullsAbsent):
    """OpenAI's chat completion request. Further fields are what the operator lets pass to the policy."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "model": "winnow",
                    "messages": [{"role": "user", "content": "I was charged twice. What should I do?"}],
                    "rerank": {"return_candidates": True},
                }
            ]
        },
    )

    model: str
    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    rerank: RerankOptions = Field(default_factory=RerankOptions)
    n: Whole = Field(1, ge=1, le=128)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: Whole | None = Field(None, ge=1, le=_MOST_TOKENS)
    max_completion_tokens: Whole | None = Field(None, ge=1, le=_MOST_TOKENS)
    seed: Whole | None = Field(None, ge=-_MOST_SEEDS, le=_MOST_SEEDS)

    top_p: float | None = Field(None, gt=0, le=1)
    stop: Annotated[
        list[Annotated[str, AfterValidator(_nonempty)]] | None,
        BeforeValidator(_stops, json_schema_input_type=str | list[str] | None),
    ] = Field(None, max_length=_MOST_STOPS)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Annotated[dict[str, float], AfterValidator(_bias)] | None = None
    logprobs: bool | None = None
    top_logprobs: Whole | None = Field(None, ge=0, le=20)
    tools: Annotated[list[Tool] | None, AfterValidator(lambda tools: tools or None)] = None
    tool_choice: Annotated[Any, AfterValidator(check_tool_choice)] = None
    parallel_tool_calls: bool | None = None
    response_format: Annotated[dict[str, Any] | None, AfterValidator(_format)] = None
    top_k: Whole | None = Field(None, ge=-1, le=_MOST_TOKENS)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)

    functions: SkipJsonSchema[Annotated[Any, deprecated("tools")]] = None
    function_call: SkipJsonSchema[Annotated[Any, deprecated("tool_choice")]] = None

    # Accepted because OpenAI's clients send them; they change nothing here.
    user: str | None = Field(None, max_length=_MOST_USER)
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    verbosity: str | None = None
    modalities: list[Literal["text"]] | None = None

    @field_validator("tool_choice")
    @classmethod
    def _needs_tools(cls, choice: Any, info: ValidationInfo) -> Any:
        names = {tool.function.name for tool in info.data.get("tools") or []}
        if not names and choice in ("auto", "none"):
            return None
        if not names:
            refuse("needs tools")
        if isinstance(choice, dict) and choice["function"]["name"] not in names:
            refuse(f"names {choice['function']['name'][:64]!r}, which is not among the tools")
        return choice

    @field_validator("parallel_tool_calls")
    @classmethod
    def _means_tools(cls, parallel: bool | None, info: ValidationInfo) -> bool | None:
        return parallel if info.data.get("tools") else None

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, count: int | None, info: ValidationInfo) -> int | None:
        if count and not info.data.get("logprobs"):
            refuse("needs logprobs: true")
        return count

    def sampling_options(self) -> dict[str, Any]:
        """What goes to the policy beside messages, seed, temperature and limits."""
        given = _OPTIONS & self.model_fields_set
        options = self.model_dump(include=given, exclude_none=True) if given else {}
        return options | (self.model_extra or {})

    @property
    def sampling_changes(self) -> frozenset[str]:
        """The options under which other candidates are sampled than a calibrator was fitted on.

        Without temperature, top_p, min_p and the token limit, which a calibrator's selection names itself.
        """
        return changing_options(self.sampling_options())

    def policy_messages(self) -> list[dict[str, Any]]:
        """The conversation as the policy and the reward model get it."""
        return [message.to_policy() for message in self.messages]


def parse_chat_request(body: bytes, rules: ParameterRules) -> tuple[ChatRequest, tuple[str, ...]]:
    """A checked request and the names of the parameters that were ignored."""
    return to_chat_request(read_object(body), rules)


def to_chat_request(raw: Mapping[str, Any], rules: ParameterRules) -> tuple[ChatRequest, tuple[str, ...]]:
    """The same from the object that a body holds; InvalidRequest names the field at fault."""
    kept, ignored = rules.sort(raw, _FIELDS)
    return validate(kept, ChatRequest), ignored


_FIELDS = frozenset(ChatRequest.model_fields)
