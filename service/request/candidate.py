"""A candidate: one completion as it grows, is scored, and is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Candidate:
    """Completion `index` of a request. `score` is the raw logit, `probability` the calibrated one or None,
    `disagreement` the deviation among the members of an ensemble, in scores."""

    index: int
    content: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    first_token_at: float | None = None
    finished_at: float | None = None
    score: float | None = None
    probability: float | None = None
    disagreement: float | None = None
    # Stopped by the route's rule, or broken off by the policy: no more of it will come.
    stopped: bool = False
    broken: bool = False

    @property
    def running(self) -> bool:
        """Whether more of it may come."""
        return not (self.finished or self.stopped or self.broken)

    @property
    def finished(self) -> bool:
        """Whether the policy ended it."""
        return self.finish_reason is not None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to send: no text and no tool call, whatever was reasoned."""
        return not self.content.strip() and not self.tool_calls

    @property
    def key(self) -> tuple[str, str]:
        """What makes two candidates the same reply."""
        return self.content, repr([call.get("function") for call in self.tool_calls])

    def feed(self, chunk: dict[str, Any], now: float) -> None:
        """Take in one chunk of the policy's stream (OpenAI's `chat.completion.chunk`)."""
        for choice in chunk.get("choices") or []:
            self._feed_delta(choice.get("delta") or {}, now)
            if logprobs := (choice.get("logprobs") or {}).get("content"):
                self.logprobs += logprobs
            if reason := choice.get("finish_reason"):
                self.finish_reason, self.finished_at = reason, now
        if usage := chunk.get("usage"):
            self.prompt_tokens = usage.get("prompt_tokens") or self.prompt_tokens
            self.completion_tokens = usage.get("completion_tokens") or self.completion_tokens
            if (details := usage.get("prompt_tokens_details")) is not None:
                self.cached_tokens = details.get("cached_tokens")

    def _feed_delta(self, delta: dict[str, Any], now: float) -> None:
        reasoning = delta.get("reasoning") or delta.get("reasoning_content") or ""
        if self.first_token_at is None and (delta.get("content") or delta.get("tool_calls") or reasoning):
            self.first_token_at = now
        self.content += delta.get("content") or ""
        self.reasoning += reasoning
        for part in delta.get("tool_calls") or []:
            self._add_tool_call(part)

    def _add_tool_call(self, part: dict[str, Any]) -> None:
        position = part["index"] if isinstance(part.get("index"), int) else len(self.tool_calls)
        while len(self.tool_calls) <= position:
            self.tool_calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        call, function = self.tool_calls[position], part.get("function") or {}
        call["id"] = part.get("id") or call["id"]
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""

    def message(self) -> dict[str, Any]:
        """OpenAI's assistant message; reasoning under both of its usual names."""
        content = self.content or None if self.tool_calls or self.reasoning else self.content
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if self.reasoning:
            message |= {"reasoning": self.reasoning, "reasoning_content": self.reasoning}
        return message | ({"tool_calls": self.tool_calls} if self.tool_calls else {})

    def completion(self) -> dict[str, Any]:
        """What the scorer is sent."""
        return {"index": self.index, "content": self.content, "tool_calls": self.tool_calls or None}

    def summary(self, *, with_content: bool) -> dict[str, Any]:
        """The candidate in `rerank.candidates`."""
        shown: dict[str, Any] = {
            "index": self.index,
            "score": self.score,
            "probability": self.probability,
            "finish_reason": self.finish_reason,
            "completion_tokens": self.completion_tokens,
        }
        if self.disagreement is not None:
            shown["disagreement"] = self.disagreement
        if self.stopped:
            shown["stopped"] = True
        if with_content:
            shown["content"] = self.content
            if self.tool_calls:
                shown["tool_calls"] = self.tool_calls
        return shown
