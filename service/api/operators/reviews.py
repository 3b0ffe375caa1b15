"""/v1/reviews: answers that wait for a reviewer. For operators and admins; clients fetch the verdict by response id."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict

from service.api.http.body import read_body
from service.api.http.lists import IdInPath, ListPage, cursor, listed
from service.api.http.state import AppState, identify, state_of
from service.api.openapi import takes
from service.identity import Identity
from service.request.schemas import parse
from service.reviews.queue import Reviews, Verdict
from service.store.pages import Cursor
from service.store.redaction import redactor_of

router = APIRouter(prefix="/v1/reviews")


class ReviewTicket(BaseModel):
    """A ticket."""

    model_config = ConfigDict(extra="allow")

    id: str
    response_id: str
    at_ms: int
    tenant: str
    route: str
    reason: str
    chance: float
    status: Literal["open", "decided"]
    claimed_by: str | None
    claimed_until_ms: int | None
    decided_by: str | None
    decided_at_ms: int | None
    verdict: Literal["accept", "choose", "edit", "reject"] | None
    acceptable: bool | None
    chosen: int | None
    text: str | None
    reasons: list[str] | None
    note: str | None


class ReviewCandidate(BaseModel):
    """One of the candidates of a ticket's answer, as the store keeps it."""

    model_config = ConfigDict(extra="allow")

    index: int
    score: float | None
    probability: float | None
    disagreement: float | None
    finish_reason: str | None
    stopped: bool
    completion_tokens: int
    content: str | None
    tool_calls: list[dict[str, Any]] | None
    # Whole, as it would be sent; null once it is delivered, and where nothing waits for it.
    message: dict[str, Any] | None = None


class ReviewDetail(ReviewTicket):
    """A ticket with what was asked, and the candidates, the best first."""

    prompt: list[dict[str, Any]] | None
    winner: int | None
    candidates: list[ReviewCandidate]


@router.get("", response_model=ListPage[ReviewTicket])
async def list_reviews(
    request: Request,
    page: Annotated[Cursor, Depends(cursor)],
    status: Literal["open", "decided"] = "open",
    route: Annotated[str | None, Query(pattern=r"^[^\x00]{1,64}$")] = None,
) -> dict[str, Any]:
    """Tickets of the tenants that the key may see, the oldest first."""
    _, reviews, _ = _reviewer(request)
    return listed(await reviews.listed(status, route, page))


@router.get("/{review_id}", response_model=ReviewDetail)
async def get_review(request: Request, review_id: IdInPath) -> dict[str, Any]:
    """A ticket with its prompt and candidates."""
    _, reviews, _ = _reviewer(request)
    return await reviews.find(review_id)


@router.post("/{review_id}/claim", response_model=ReviewTicket)
async def claim_review(request: Request, review_id: IdInPath) -> dict[str, Any]:
    """Hold a ticket for a quarter of an hour; a 409 while another reviewer does."""
    _, reviews, identity = _reviewer(request)
    return await reviews.claim(review_id, identity.actor)


@router.post("/{review_id}/release", response_model=ReviewTicket)
async def release_review(request: Request, review_id: IdInPath) -> dict[str, Any]:
    """Give a ticket back."""
    _, reviews, identity = _reviewer(request)
    return await reviews.release(review_id, identity.actor)


@router.post("/{review_id}/verdict", response_model=ReviewTicket)
@takes(Verdict)
async def decide_review(request: Request, review_id: IdInPath) -> dict[str, Any]:
    """Accept the winner, choose another candidate, write the reply anew, or reject them all."""
    state, reviews, identity = _reviewer(request)
    verdict = parse(await read_body(request, state.settings.max_body_bytes), Verdict)
    return await reviews.decide(review_id, identity.actor, verdict, redactor_of(state.settings.store))


def _reviewer(request: Request) -> tuple[AppState, Reviews, Identity]:
    state = state_of(request)
    identity = identify(request, state)
    identity.require("operator", "admin")
    return state, state.required_reviews.of(identity.visible), identity
