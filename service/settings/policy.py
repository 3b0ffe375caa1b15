"""A policy endpoint, and how the gateway treats the servers it calls."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

Dialect = Literal["vllm", "openai", "minimal"]


class PolicySettings(BaseModel):
    """A policy endpoint beside the default one, named in a route's `policy`."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(description="Base URL of an OpenAI-compatible server, without /v1; it may have a path.")
    model: str = Field(description="Model name to request.")
    api_key: str | None = Field(None, description="Bearer token that it requires, if any.")
    dialect: Dialect = Field(
        "vllm",
        description="`vllm`: everything. `openai`: only parameters of OpenAI's API, with `max_completion_tokens` "
        "and 32-bit seeds. `minimal`: for llama.cpp, Ollama and others; like `openai`, but with "
        "`max_tokens` and without `stream_options`.",
    )
    headers: dict[str, str] = Field(default_factory=dict, description="Additional headers to send.")
    revision: str | None = Field(
        None, description="Revision of its weights. Calibrators fitted on another revision do not hold."
    )

    @field_validator("url")
    @classmethod
    def _base_url(cls, url: str) -> str:
        return base_url(url)


class UpstreamSettings(BaseModel):
    """When a policy or the scorer counts as failed, and how its connections are kept."""

    model_config = ConfigDict(extra="forbid")

    failures: int = Field(
        10,
        ge=1,
        description="Consecutive failures after which an upstream is not called for `pause_seconds` (circuit breaker).",
    )
    pause_seconds: float = Field(
        5.0, gt=0, description="How long a failed upstream is not called before one call tries it again, in seconds."
    )
    stall_seconds: float = Field(
        10.0, gt=0, description="A call that is cancelled after this many seconds without any data counts as a failure."
    )
    idle_seconds: float = Field(
        15.0, gt=0, description="Readiness probes an upstream that has had no traffic for this many seconds."
    )
    probe_seconds: float = Field(
        2.5, gt=0, description="Timeout of such a probe, a completion of one token, in seconds."
    )
    connections: int = Field(2000, ge=1, description="Maximum number of open connections to all upstreams together.")


def base_url(url: str) -> str:
    """The URL without a final slash. Raises ValueError if it cannot be the base of an API's paths."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http:// or https:// URL")
    if parts.query or parts.fragment:
        raise ValueError(f"{url!r} has a query or a fragment; leave it out")
    bare = url.rstrip("/")
    if bare.endswith("/v1"):
        raise ValueError(f"{url!r} ends in /v1, which is added by itself; write {bare.removesuffix('/v1')!r}")
    return bare
