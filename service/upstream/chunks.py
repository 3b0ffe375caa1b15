"""Normalises a policy's chunks to one shape.

A normal chunk is OpenAI's `chat.completion.chunk`: `choices` holds the choice 0 or nothing; its `delta` is an object;
`content` is text or None; each entry of `tool_calls` has an integer `index` and arguments as text; reasoning stands
under both `reasoning` and `reasoning_content`; `usage` is None or has whole numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from service.errors import PolicyUnavailable
from service.upstream.refusals import failure
from service.upstream.tool_calls import ToolCalls, whole_calls

# A chunk of one choice that begins with text. What else it holds is looked for below.
_TEXT = re.compile(rb'"choices": ?\[\{"index": ?0, ?"delta": ?\{(?:"role": ?"assistant", ?)?"content": ?"')
_ODD = re.compile(rb'"(?:tool_calls"|reasoning|error"|usage": ?\{)')
# Other servers' words for OpenAI's reasons.
_REASONS = {
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
}
_DETAILS = ("prompt_tokens_details", "completion_tokens_details")
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def is_plain(payload: bytes) -> bool:
    """Whether a chunk is surely normal as it stands; a test of its bytes, a third of the cost of parsing it."""
    return (
        _TEXT.search(payload) is not None
        and _ODD.search(payload) is None
        and payload.count(b'"delta":') == 1
        and payload.endswith(b"}")
    )


def parse(payload: bytes) -> dict[str, Any]:
    """A payload's object; PolicyUnavailable if it is none, or says that sampling failed."""
    chunk = _object(payload)
    if chunk.get("error"):
        raise failure(chunk["error"], {})
    return chunk


class ChunkReader:
    """Reads the chunks of one completion; `request` is what the policy was asked.

    What was parsed is nobody else's, so it is changed in place: of best-of-8 this is most of the gateway's work.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request
        self._calls = ToolCalls()
        self.finished = False

    def read(self, payload: bytes) -> dict[str, Any]:
        """The normal chunk. Raises PolicyUnavailable, or InvalidRequest if the policy says so in its stream."""
        chunk = _object(payload)
        if chunk.get("error"):
            raise failure(chunk["error"], self._request)
        chunk["choices"] = choices = [self._choice(choice) for choice in _choices(chunk)]
        for choice in choices:
            self.finished |= choice["finish_reason"] is not None
        return _with_usage(chunk)

    def whole(self, content: bytes) -> dict[str, Any]:
        """A completion that is not streamed, as one chunk with its message as `delta`."""
        chunk = _object(content)
        if chunk.get("error"):
            raise failure(chunk["error"], self._request)
        chunk["choices"] = choices = [self._choice(choice, whole=True) for choice in _choices(chunk)]
        if not choices:
            raise PolicyUnavailable("the policy answered without a choice", kind="malformed")
        self.finished = True
        return _with_usage(chunk)

    def _choice(self, choice: dict[str, Any], *, whole: bool = False) -> dict[str, Any]:
        reason = choice.get("finish_reason") or None
        if reason == "error":
            raise PolicyUnavailable("the policy failed while it sampled", kind="failed")
        delta = choice.get("delta") or choice.get("message") or {}
        if not isinstance(delta, dict) or not (reason is None or isinstance(reason, str)):
            raise _malformed()
        choice.pop("message", None)
        if not isinstance(choice.get("logprobs"), dict):
            choice.pop("logprobs", None)
        choice["index"] = 0
        choice["delta"] = delta = self._delta(delta, whole)
        choice["finish_reason"] = _REASONS.get(reason, reason) if reason else None
        if whole:
            choice["message"] = delta
        return choice

    def _delta(self, delta: dict[str, Any], whole: bool) -> dict[str, Any]:
        if "content" in delta:
            delta["content"] = _text(delta["content"])
        reasoning = delta.get("reasoning") or delta.get("reasoning_content")
        if isinstance(reasoning, str):
            delta |= {"reasoning": reasoning, "reasoning_content": reasoning}
        calls = delta.pop("tool_calls", None) or []
        calls = [calls] if isinstance(calls, dict) else calls
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            raise _malformed()
        if calls:
            delta["tool_calls"] = whole_calls(calls) if whole else [self._calls.fragment(call) for call in calls]
        return delta


def _with_usage(chunk: dict[str, Any]) -> dict[str, Any]:
    """The chunk with whole numbers in its `usage`; with None there if there is none to speak of."""
    usage = chunk.get("usage")
    if usage is None:
        return chunk
    if not isinstance(usage, dict) or not usage:
        chunk["usage"] = None
        return chunk
    for name in _COUNTS:
        usage[name] = _count(usage.get(name))
    for name in _DETAILS:
        if name in usage and not isinstance(usage[name], dict):
            del usage[name]
    return chunk


def _object(payload: bytes) -> dict[str, Any]:
    try:
        chunk = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise PolicyUnavailable("the policy sent something that is not JSON", kind="malformed") from error
    if not isinstance(chunk, dict):
        raise _malformed()
    return chunk


def _choices(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    """The choice 0: one was asked for, and another is nobody's."""
    choices = chunk.get("choices") or []
    if not isinstance(choices, list):
        raise _malformed()
    for choice in choices:
        if not isinstance(choice, dict):
            raise _malformed()
    return [choice for choice in choices if choice.get("index") in (0, None)][:1]


def _text(content: Any) -> str | None:
    """Content as text; of a list of parts the texts."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    if content is None or isinstance(content, str):
        return content
    raise _malformed()


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _malformed() -> PolicyUnavailable:
    return PolicyUnavailable("the policy sent a chunk that is not in OpenAI's shape", kind="malformed")
