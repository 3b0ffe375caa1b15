"""Adapts the policy's request to the dialect of its server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.errors import InvalidRequest
from service.settings.policy import Dialect

# What vLLM takes beyond OpenAI's API, with the value that changes nothing.
_VLLM_ONLY: Mapping[str, Any] = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "allowed_token_ids": None,
    "guided_choice": None,
    "guided_grammar": None,
    "guided_json": None,
    "guided_regex": None,
    "spaces_between_special_tokens": True,
    "min_tokens": 0,
    "stop_token_ids": [],
    "bad_words": [],
    "ignore_eos": False,
    "skip_special_tokens": True,
    "include_stop_str_in_output": False,
    "chat_template": None,
    "chat_template_kwargs": {},
    "structured_outputs": None,
    "thinking_token_budget": None,
    "include_reasoning": True,
}
# A prime, so that every bit of a longer seed counts.
_SEEDS = 2**31 - 1


def spoken(body: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    """`body`, written for vLLM, as a server of another dialect takes it.

    Raises InvalidRequest for a wish that it could only ignore.
    """
    if dialect != "openai" and "messages" in body:
        body = body | {"messages": _known_roles(body["messages"])}
    if dialect == "vllm":
        return body
    request = {name: value for name, value in body.items() if name != "cache_salt"}
    for name in _VLLM_ONLY.keys() & request.keys():
        if request.pop(name) not in (None, _VLLM_ONLY[name]):
            raise InvalidRequest(f"this policy does not support {name}", param=name, code="unsupported_parameter")
    if (seed := request.get("seed")) is not None:
        request["seed"] = folded_seed(seed)
    options = request.pop("stream_options", None)
    if dialect == "openai":
        if options is not None:
            request["stream_options"] = {"include_usage": True}
        if "max_tokens" in request:
            request["max_completion_tokens"] = request.pop("max_tokens")
    return request


def _known_roles(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Chat templates of open models know no developer; all that know gpt-oss's take system for it."""
    return [turn | {"role": "system"} if turn["role"] == "developer" else turn for turn in messages]


def folded_seed(seed: int) -> int:
    """The seed as a signed 32-bit integer; a small one stays what it is."""
    return seed % _SEEDS
