"""Responses as the OpenAPI document describes them. Fields that a later version adds are allowed everywhere."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

EVENTS: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "description": "With `stream: true`: an event for each of OpenAI's chunks or events, as JSON in `data`.",
            "required": ["data"],
            "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
        }
    }
}


class TokenUsage(BaseModel):
    """What was spent: the prompt once, and the completion tokens of every candidate."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class WinnerReport(BaseModel):
    """The best candidate."""

    index: int
    score: float | None
    probability: float | None
    completion_tokens: int


class CandidateReport(BaseModel):
    """One of the candidates that were sampled; its text only if it was asked for and may be shown."""

    index: int
    score: float | None
    probability: float | None
    finish_reason: str | None
    completion_tokens: int
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class RerankReport(BaseModel):
    """How the answer came about."""

    route: str
    route_probability: float
    strategy: Literal["best_of_n", "greedy"]
    decision: Literal["accept", "review", "fallback", "passthrough"]
    sent: str | None = Field(None, description="What the client got: winner, greedy, held or fallback.")
    stop_reason: str
    degraded: str | None
    orm: str | None
    calibrator: dict[str, Any] | None
    policy: str
    n_requested: int
    n_completed: int
    n_scored: int
    winner: WinnerReport | None
    candidates: list[CandidateReport]
    review_id: str | None
    timings_ms: dict[str, float]


class AssistantMessage(BaseModel):
    """What the assistant said or called."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(BaseModel):
    """One of the answers that were asked for."""

    index: int
    message: AssistantMessage
    finish_reason: str
    logprobs: dict[str, Any] | None = None


class ChatCompletion(BaseModel):
    """OpenAI's chat completion, with `rerank`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage
    rerank: RerankReport


class TextChoice(BaseModel):
    """One of the continuations that were asked for."""

    text: str
    index: int
    finish_reason: str
    logprobs: None = None


class TextCompletion(BaseModel):
    """OpenAI's legacy completion, with `rerank`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: TokenUsage
    rerank: RerankReport


class ResponseBody(BaseModel):
    """OpenAI's response object, with `rerank`; the fields that matter most."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete", "failed", "in_progress"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    rerank: RerankReport


class ModelCard(BaseModel):
    """A model that a request may name."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The models that a request may name."""

    object: Literal["list"]
    data: list[ModelCard]
