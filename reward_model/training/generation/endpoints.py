"""Models behind OpenAI-compatible endpoints that replies are sampled from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from reward_model.errors import BadInput, RewardModelError
from reward_model.labels import Origin
from reward_model.text.formatting import Completion, Message

if TYPE_CHECKING:
    import httpx

# Seconds before the second attempt; it doubles from one to the next.
_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
# Every prompt would get these answers: there is no use in going on.
_HOPELESS = frozenset({401, 403, 404, 405})


class Refused(RewardModelError):
    """The endpoint does not want this one prompt, because it is too long, say."""


@dataclass(frozen=True)
class Endpoint:
    """Where replies of one origin come from; `model` null is the first that the server lists."""

    origin: Origin
    url: str
    model: str | None = None
    api_key: str | None = None
    attempts: int = 5


@dataclass(frozen=True)
class SamplingParameters:
    """How every reply is sampled; reply i of a prompt has a seed of its own."""

    n: int = 2
    temperature: float = 0.8
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 7


@dataclass(frozen=True)
class Sample:
    """One reply, who wrote it, and how it ended."""

    completion: Completion
    model: str | None
    finish_reason: str | None


def endpoint(origin: str, address: str, api_key: str | None = None) -> Endpoint:
    """From `URL` or `URL,model`; a server's bare address gets /v1.

    >>> endpoint("policy", "http://127.0.0.1:8001,smollm2")
    Endpoint(origin='policy', url='http://127.0.0.1:8001/v1', model='smollm2', api_key=None, attempts=5)
    """
    url, _, model = address.partition(",")
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise BadInput(f"{address}: expected http://HOST:PORT or http://HOST:PORT,MODEL for the {origin}")
    path = parts.path.rstrip("/") or "/v1"
    return Endpoint(cast(Origin, origin), f"{parts.scheme}://{parts.netloc}{path}", model.strip() or None, api_key)


async def with_model(client: httpx.AsyncClient, target: Endpoint) -> Endpoint:
    """The endpoint with its model's name, asked from the server where it was not given."""
    if target.model is not None:
        return target
    listed = (await _ask(client, "GET", target, "/models")).get("data") or []
    if not listed:
        raise RewardModelError(f"{target.url} lists no model; name one: {target.url},MODEL")
    return replace(target, model=str(listed[0]["id"]))


async def sample(
    client: httpx.AsyncClient, target: Endpoint, prompt: Sequence[Message], how: SamplingParameters, seed: int
) -> Sample:
    """One reply; raises Refused when this prompt is not wanted, RewardModelError when the endpoint does not work."""
    body = {
        "model": target.model,
        "messages": [message.model_dump(exclude_none=True) for message in prompt],
        "temperature": how.temperature,
        "top_p": how.top_p,
        "max_tokens": how.max_tokens,
        "seed": seed,
    }
    answer = await _ask(client, "POST", target, "/chat/completions", body)
    try:
        choice = answer["choices"][0]
        return Sample(Completion.model_validate(choice["message"]), target.model, choice.get("finish_reason"))
    except (LookupError, TypeError, ValueError) as error:
        raise RewardModelError(f"{target.url} gave no chat completion: {str(answer)[:200]}") from error


async def _ask(
    client: httpx.AsyncClient, method: str, target: Endpoint, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The answer's JSON; what may pass by itself is tried again, after a pause that grows."""
    import httpx

    headers = {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}
    trouble = ""
    for attempt in range(target.attempts):
        try:
            answer = await client.request(method, target.url + path, json=body, headers=headers)
        except httpx.TransportError as error:
            trouble, pause = type(error).__name__, _PAUSE * 2**attempt
        else:
            if answer.is_success:
                return _object(target, answer)
            trouble = f"{answer.status_code}: {answer.text[:200]}"
            if answer.status_code not in _TRY_AGAIN:
                hopeless = answer.status_code in _HOPELESS
                raise (RewardModelError if hopeless else Refused)(f"{target.url} answered {trouble}")
            pause = max(_PAUSE * 2**attempt, _seconds(answer.headers.get("retry-after")))
        if attempt + 1 < target.attempts:
            await asyncio.sleep(min(pause, _LONGEST_PAUSE))
    raise RewardModelError(f"{target.url} failed {target.attempts} times ({trouble})")


def _object(target: Endpoint, answer: httpx.Response) -> dict[str, Any]:
    try:
        value = answer.json()
    except ValueError as error:
        raise RewardModelError(f"{target.url} answered no JSON: {answer.text[:200]}") from error
    if not isinstance(value, dict):
        raise RewardModelError(f"{target.url} answered no JSON object: {answer.text[:200]}")
    return value


def _seconds(retry_after: str | None) -> float:
    """A number of seconds; a date, which the header may hold as well, counts as none."""
    try:
        return float(retry_after or 0)
    except ValueError:
        return 0.0
