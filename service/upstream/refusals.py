"""Maps a policy's error to the client's: our own sentence, a stable code, and the parameter to change.

The policy's own text never goes further than this module: it may quote the prompt, an address or a stack.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from service.errors import ApiError, InvalidRequest, PolicyOverloaded, PolicyUnavailable

log = logging.getLogger("winnow.policy")

_REJECTED = "rejected_by_policy"
_LONGEST_PAUSE_SECONDS = 3600
# In the order in which they are suspected if the policy does not say what it objects to.
_SUSPECTS = ("tools", "tool_choice", "response_format", "logit_bias", "stop", "top_logprobs", "logprobs", "seed")
# Names that are words of everyday language are taken for parameters only if the policy puts them in quotes.
_WORDS = frozenset({"messages", "model", "n", "seed", "stop", "stream", "tools", "user"})
# What the gateway adds by itself or under another name: no client can change it.
_OURS = frozenset({"model", "n", "stream", "stream_options", "cache_salt"})

_CONTEXT = re.compile(
    r"context.?length|maximum model length|context.?size|context window|longer than the maximum|too many tokens"
    r"|must be <= \d+\. Given: \d+ `inputs`|exceed_context",
    re.IGNORECASE,
)
_LIMIT = re.compile(
    r"(?:context length (?:is|of)(?: only)?|model length of|context size \(?(?:of )?|n_ctx\D{1,4}|must be <=) ?(\d+)",
    re.IGNORECASE,
)
_PROMPT = re.compile(
    r"(?:prompt \(length |n_prompt_tokens\D{1,4}|Given: )(\d+)|(?:contains |has |resulted in |least )(\d+) (?:input )?"
    r"tokens|(\d+) (?:in|from) the (?:messages|input|prompt)|request \((\d+) tokens\)",
    re.IGNORECASE,
)
_UNSUPPORTED = re.compile(
    r"unsupported[ _]parameter|unknown[ _]parameter|unrecognized request argument|extra_forbidden|extra inputs"
    r"|(?:is|are) not supported|does not support|not implemented",
    re.IGNORECASE,
)
_TOOL_PARSER = re.compile(r"enable-auto-tool-choice|tool-call-parser|requires --jinja", re.IGNORECASE)
_SCHEMA = re.compile(
    r"json.?schema|grammar|structured.?output|guided|regex|xgrammar|outlines|llguidance", re.IGNORECASE
)
_LOCATION = re.compile(r"'loc': [(\[]'body', '(\w+)'")
_TOOLS = re.compile(r"\btools?\b|\bfunction\b", re.IGNORECASE)
_TEMPLATE = re.compile(r"roles must alternate|system role|chat.?template|last message|must start with", re.IGNORECASE)


class PolicyError(NamedTuple):
    """A policy's error as it tells it; `text` is never shown."""

    text: str = ""
    type: str = ""
    param: str = ""
    status: int | None = None


def read_error(body: bytes) -> PolicyError:
    """The error in a body, in OpenAI's shape or in another's."""
    try:
        return _error_of(orjson.loads(body))
    except orjson.JSONDecodeError:
        return PolicyError(body.decode(errors="replace"))


def refusal(status: int, body: bytes, request: Mapping[str, Any], retry_after: str | None = None) -> ApiError:
    """What the client is told of an answer that is not a 200."""
    error = read_error(body)
    _note(status, error)
    pause = seconds_of(retry_after)
    if status in (400, 413, 422):
        return _for_client(error, request, too_large=status == 413)
    if status == 404:
        return PolicyUnavailable(
            "the policy does not serve the model that this gateway asks it for; the gateway's operator has to correct "
            "the policy's url or model",
            kind="misconfigured",
            code="policy_model_not_found",
        )
    if status in (401, 403):
        return PolicyUnavailable(
            "the policy refuses this gateway's key; the gateway's operator has to correct it",
            kind="misconfigured",
            code="policy_unauthorized",
        )
    if status == 429:
        return PolicyOverloaded(
            "the policy has as much as it can carry; try again later", kind="overloaded", retry_after=pause or 1
        )
    if 300 <= status < 400:
        return PolicyUnavailable(
            "the policy redirects to another address; the gateway's operator has to correct the policy's url",
            kind="misconfigured",
        )
    return PolicyUnavailable(f"the policy answered with status {status}", retry_after=pause)


def failure(error: Any, request: Mapping[str, Any]) -> ApiError:
    """What the client is told of an error that a policy sends in its stream."""
    known = _error_of({"error": error})
    status = known.status or (400 if _CONTEXT.search(known.text) else 500)
    _note(status, known)
    if status in (400, 413, 422):
        return _for_client(known, request, too_large=status == 413)
    if status == 429:
        return PolicyOverloaded("the policy has as much as it can carry; try again later", kind="overloaded")
    return PolicyUnavailable("the policy failed while it sampled", kind="failed")


def seconds_of(retry_after: str | None) -> float | None:
    """The seconds of a `retry-after` header, rounded up; None for a date or nonsense."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return math.ceil(seconds) if 0 < seconds <= _LONGEST_PAUSE_SECONDS else None


def _for_client(error: PolicyError, request: Mapping[str, Any], *, too_large: bool) -> InvalidRequest:
    text = error.text
    if _CONTEXT.search(text) or _CONTEXT.search(error.type):
        return _too_long(text, request)
    if too_large:
        return InvalidRequest("the policy takes no request of this size; shorten it", param="messages", code=_REJECTED)
    if _TOOL_PARSER.search(text):
        return InvalidRequest(
            'this policy cannot decide itself whether to call a tool; send tool_choice "none", or name the function',
            param="tool_choice" if "tool_choice" in request else "tools",
            code="unsupported_parameter",
        )
    name = _parameter(error, request)
    if name is not None and _UNSUPPORTED.search(f"{text} {error.type}"):
        return InvalidRequest(f"this policy does not support {name}", param=name, code="unsupported_parameter")
    if name is not None and name != "messages":
        return InvalidRequest(f"the policy refuses the value of {name}", param=name, code=_REJECTED)
    if _SCHEMA.search(text) and (formats := [n for n in ("response_format", "tools") if n in request]):
        return InvalidRequest(
            f"the policy cannot decode by the JSON schema in {formats[0]}", param=formats[0], code=_REJECTED
        )
    if _TOOLS.search(text) and "tools" in request:
        return InvalidRequest("the policy refuses the definitions in tools", param="tools", code=_REJECTED)
    if _TEMPLATE.search(text):
        return InvalidRequest(
            "the policy's chat template does not take this order of messages: some want user and assistant in turn, "
            "or no system message",
            param="messages",
            code=_REJECTED,
        )
    if name == "messages":
        return InvalidRequest("the policy refuses the form of these messages", param="messages", code=_REJECTED)
    return _unexplained(request)


def _too_long(text: str, request: Mapping[str, Any]) -> InvalidRequest:
    limit, prompt = _number(_LIMIT, text), _number(_PROMPT, text)
    room = request.get("max_tokens") or request.get("max_completion_tokens")
    asked = "the messages" + (f" ({prompt} tokens)" if prompt else "")
    asked += f" and max_tokens ({room})" if isinstance(room, int) else ""
    return InvalidRequest(
        f"{asked} exceed the policy's context"
        + (f" of {limit} tokens" if limit else "")
        + "; shorten the messages or lower max_tokens",
        param="messages",
        code="context_length_exceeded",
    )


def _unexplained(request: Mapping[str, Any]) -> InvalidRequest:
    suspects = [name for name in _SUSPECTS if request.get(name) is not None][:3] or ["messages"]
    return InvalidRequest(
        f"the policy refused this request; most likely because of {' or '.join(suspects)}",
        param=suspects[0],
        code=_REJECTED,
    )


def _parameter(error: PolicyError, request: Mapping[str, Any]) -> str | None:
    """The client's parameter that an error names; only names that the request holds, so that no text gets through."""
    names = [name for name in request if name not in _OURS]
    located = _LOCATION.search(error.text)
    for first in (re.split(r"[.\[]", error.param)[0], located.group(1) if located else ""):
        if first in names:
            return first
    for name in names:
        quoted = rf"['\"`]{re.escape(name)}(?:\[|\.|['\"`])"
        pattern = quoted if name in _WORDS else rf"{quoted}|(?<!\w){re.escape(name)}(?!\w)"
        if re.search(pattern, error.text):
            return name
    return None


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return int(next(group for group in match.groups() if group)) if match else None


def _error_of(body: Any) -> PolicyError:
    """From `{"error": {...}}`, `{"error": "..."}`, `{"message": ...}` or FastAPI's `{"detail": ...}`."""
    if not isinstance(body, dict):
        return PolicyError(str(body))
    error = body.get("error") or body
    if isinstance(error, list) and error:
        error = error[0]
    if not isinstance(error, dict):
        return PolicyError(str(error))
    status = next((value for name in ("status", "status_code", "code") if type(value := error.get(name)) is int), None)
    kind = " ".join(value for name in ("type", "code") if isinstance(value := error.get(name), str))
    if status is None and re.search(r"invalid_request|BadRequest|ValidationError|context_length", kind):
        status = 400
    param = error.get("param")
    extra = " ".join(f"{name}={error[name]}" for name in ("n_prompt_tokens", "n_ctx") if name in error)
    text = f"{error.get('message') or error.get('detail') or ''} {extra}".strip()
    return PolicyError(text, kind, param if isinstance(param, str) else "", status)


def _note(status: int, error: PolicyError) -> None:
    """Enough to find the error in the policy's own log, without its text."""
    kind = error.type if re.fullmatch(r"[\w. -]{1,64}", error.type) else "-"
    digest = hashlib.sha256(error.text.encode()).hexdigest()[:12]
    log.warning(
        "the policy answered status=%d type=%s; its message has %d characters (sha256 %s)",
        status,
        kind,
        len(error.text),
        digest,
    )
