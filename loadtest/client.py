"""One request of a load test, and what became of it."""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from loadtest.errors import BadTarget
from loadtest.workload import Arrival, Kind

_CHECK_TIMEOUT_S = 10.0
_SERVER_TIMING = re.compile(r"([\w-]+)[^,]*?;\s*dur=([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Target:
    """An OpenAI-compatible endpoint; `base_url` is without a trailing slash and without `/v1`."""

    base_url: str
    model: str
    max_tokens: int
    api_key: str | None = None

    @classmethod
    def parse(cls, url: str, *, model: str, max_tokens: int, api_key: str | None) -> Target:
        """A target out of what the user typed (with `/v1` or without); raises BadTarget."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise BadTarget(f"{url!r} is not an http:// or https:// URL with a host")
        return cls(url.rstrip("/").removesuffix("/v1"), model, max_tokens, api_key)

    def headers(self) -> dict[str, str]:
        """Authorization, when there is a key."""
        return {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """What became of one arrival. Times are in ms; latency is counted from the *scheduled* send time."""

    kind: Kind
    latency_ms: float
    late_ms: float
    """How long after its scheduled time the generator began to send it: its own fault, not the server's."""
    error: str | None = None
    """None, `timeout`, `connection`, `bad_body`, `cancelled` (the run was stopped), or `http_<status>`."""
    route: str | None = None
    decision: str | None = None
    degraded: str | None = None
    completion_tokens: int = 0
    stages_ms: dict[str, float] = field(default_factory=dict)


async def check(session: aiohttp.ClientSession, target: Target) -> None:
    """Ask for the models once before any load; raises BadTarget when there is no such endpoint to test."""
    url = f"{target.base_url}/v1/models"
    try:
        timeout = aiohttp.ClientTimeout(total=_CHECK_TIMEOUT_S)
        async with session.get(url, timeout=timeout) as response:
            status = response.status
    except (aiohttp.ClientError, TimeoutError) as error:
        raise BadTarget(f"{url} does not answer ({error or 'timed out'}); is the gateway running?") from error
    if status in {401, 403}:
        raise BadTarget(f"{url} refuses the API key (HTTP {status}); give one with --api-key or WINNOW_API_KEY")
    if status != 200:
        raise BadTarget(f"{url} answered HTTP {status}; is this an OpenAI-compatible endpoint?")


async def ask(
    session: aiohttp.ClientSession, target: Target, arrival: Arrival, scheduled: float, timeout_s: float
) -> RequestOutcome:
    """Send one request and measure it; never raises for what the server does.

    `scheduled` is what the loop's clock should have read when it left; the time limit runs from there too.
    """
    clock = asyncio.get_running_loop().time
    late_ms = max(0.0, clock() - scheduled) * 1e3
    try:
        async with asyncio.timeout_at(scheduled + timeout_s):
            seen = await _post(session, target, arrival.prompt)
    except TimeoutError:
        seen = {"error": "timeout"}
    except aiohttp.ClientError:
        seen = {"error": "connection"}
    return RequestOutcome(arrival.kind, (clock() - scheduled) * 1e3, late_ms, **seen)


async def _post(session: aiohttp.ClientSession, target: Target, prompt: str) -> dict[str, Any]:
    url = f"{target.base_url}/v1/chat/completions"
    messages = [{"role": "user", "content": prompt}]
    body = {"model": target.model, "messages": messages, "max_tokens": target.max_tokens}
    async with session.post(url, json=body, allow_redirects=False) as response:
        raw = await response.read()
    if response.status != 200:
        return {"error": f"http_{response.status}"}
    try:
        return _read(json.loads(raw), response.headers.get("server-timing", ""))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return {"error": "bad_body"}


def _read(body: dict[str, Any], server_timing: str) -> dict[str, Any]:
    """What the report wants of an answer; a plain OpenAI server has no `rerank` and that is fine."""
    if not isinstance(body["choices"][0]["message"], dict):
        raise TypeError("no message in the first choice")
    rerank = body.get("rerank") or {}
    return {
        "route": rerank.get("route"),
        "decision": rerank.get("decision"),
        "degraded": rerank.get("degraded"),
        "completion_tokens": int((body.get("usage") or {}).get("completion_tokens", 0)),
        "stages_ms": _numbers(rerank.get("timings_ms")) or parse_server_timing(server_timing),
    }


def parse_server_timing(header: str) -> dict[str, float]:
    """Durations in ms by name out of a W3C Server-Timing header; entries without `dur` are left out."""
    return {name: float(duration) for name, duration in _SERVER_TIMING.findall(header)}


def _numbers(timings: dict[str, Any] | None) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in (timings or {}).items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
