"""A policy endpoint."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PolicySettings(BaseModel):
    """A policy endpoint beside the default one, named in a route's `policy`."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(description="Base URL of an OpenAI-compatible server, without /v1.")
    model: str = Field(description="Model name to ask it for.")
    api_key: str | None = Field(None, description="Bearer token it wants, if any.")
