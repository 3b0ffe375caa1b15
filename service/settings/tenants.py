"""Limits of tenants."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


class TenantSettings(BaseModel):
    """Limits of one tenant, in place of those that hold for every tenant."""

    model_config = ConfigDict(extra="forbid")

    requests_per_minute: int | None = Field(None, ge=1, description="Maximum number of requests per minute.")
    concurrent_candidates: int | None = Field(
        None, ge=1, description="Maximum number of candidates in progress on each gateway."
    )
    tokens_per_minute: int | None = Field(None, ge=1, description="Maximum number of sampled tokens per minute.")


@dataclass(frozen=True)
class TenantLimits:
    """The limits that are in force for a tenant."""

    requests_per_minute: int
    concurrent_candidates: int
    tokens_per_minute: int
