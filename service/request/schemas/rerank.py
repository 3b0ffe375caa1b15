"""The `rerank` object of a request, the one extension to OpenAI's API."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from service.request.schemas.fields import NoOtherFields, Whole

# What the store has room for.
_MOST_LOCALE = 32


class RerankOptions(NoOtherFields):
    """How this request is to be reranked; every field is bounded by the route's settings."""

    mode: Literal["auto", "off", "best_of_n"] = "auto"
    n: Whole | None = Field(None, ge=1, le=1024)
    temperature: float | None = Field(None, ge=0, le=2)
    budget_ms: Whole | None = Field(None, gt=0, le=86_400_000)
    accept_threshold: float | None = Field(None, ge=0, le=1)
    return_candidates: bool = False
    locale: str | None = Field(
        None,
        pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$",
        max_length=_MOST_LOCALE,
        description="BCP 47; picks the reward model's own head.",
    )
