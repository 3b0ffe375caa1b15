"""Feedback from applications: a thumb, a rating, or the better one of two candidates."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from service.errors import InvalidRequest
from service.reviews.queue import MAX_INDEX
from service.store.redaction import Redactor, redact_note
from service.store.rows import fitted, stored_user
from service.store.tables import candidates, feedback, responses


class Feedback(BaseModel):
    """Of one answer: a thumb, a rating, or a preference, whose `preferred` and `rejected` are candidates' numbers."""

    model_config = ConfigDict(extra="forbid")

    response_id: str = Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")
    thumb: Literal["up", "down"] | None = None
    rating: int | None = Field(None, ge=1, le=5)
    preferred: int | None = Field(None, ge=0, le=MAX_INDEX)
    rejected: int | None = Field(None, ge=0, le=MAX_INDEX)
    comment: str | None = Field(None, max_length=10_000)

    @model_validator(mode="after")
    def _says_something(self) -> Feedback:
        if self.thumb is None and self.rating is None and self.preferred is None:
            raise ValueError("say `thumb`, `rating`, or `preferred` with `rejected`")
        both = (self.preferred, self.rejected)
        if both != (None, None) and (None in both or self.preferred == self.rejected):
            raise ValueError("`preferred` and `rejected` are two candidates and go together")
        return self


async def keep_feedback(
    engine: AsyncEngine, tenant: str, opinion: Feedback, user: str | None, redactor: Redactor
) -> str:
    """Write it, and return its id: durable by then. A comment is redacted; `user` is whom the answer was for."""
    row = opinion.model_dump() | {
        "id": f"feedback-{secrets.token_hex(12)}",
        "tenant": tenant,
        "user": stored_user(user),
    }
    row["comment"] = await redact_note(redactor, opinion.comment)
    async with engine.begin() as connection:
        await connection.execute(insert(feedback).values(fitted(feedback, row | {"at_ms": int(time.time() * 1000)})))
    return str(row["id"])


async def is_answer_of(engine: AsyncEngine, response_id: str, tenant: str) -> bool:
    """Whether the history has such an answer to this tenant."""
    query = select(responses.c.id).where(responses.c.id == response_id, responses.c.tenant == tenant)
    async with engine.connect() as connection:
        return (await connection.execute(query)).first() is not None


async def candidates_of(engine: AsyncEngine, response_id: str) -> set[int]:
    """The numbers of an answer's candidates as the history has them."""
    query = select(candidates.c.index).where(candidates.c.response_id == response_id)
    async with engine.connect() as connection:
        return set((await connection.execute(query)).scalars())


def require_candidates(opinion: Feedback, numbers: Collection[int]) -> None:
    """Raises InvalidRequest for a preference among candidates of which the answer has none by that number."""
    for name in ("preferred", "rejected"):
        number = getattr(opinion, name)
        if number is not None and number not in numbers:
            raise InvalidRequest(
                f"{name}={number}: {opinion.response_id} has no such candidate", param=name, code="no_such_candidate"
            )
