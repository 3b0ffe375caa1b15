"""/v1/reviews: answers that wait for a reviewer. For operators and admins; clients fetch the verdict by response id."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request

from service.api.body import read_body
from service.api.state import AppState, identify, state_of
from service.errors import NotFound
from service.identity import Identity
from service.request.schemas import parse
from service.reviews.queue import Reviews, Verdict

router = APIRouter(prefix="/v1/reviews")


@router.get("")
async def list_reviews(
    request: Request,
    status: Literal["open", "decided"] = "open",
    route: str | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> dict[str, Any]:
    """Tickets, the oldest first."""
    _, reviews, _ = _reviewer(request)
    return {"object": "list", "data": await reviews.listed(status, route, limit)}


@router.get("/{review_id}")
async def get_review(request: Request, review_id: str) -> dict[str, Any]:
    """A ticket with its prompt and candidates."""
    _, reviews, _ = _reviewer(request)
    return await reviews.find(review_id)


@router.post("/{review_id}/claim")
async def claim_review(request: Request, review_id: str) -> dict[str, Any]:
    """Hold a ticket for a quarter of an hour; a 409 while another reviewer does."""
    _, reviews, identity = _reviewer(request)
    return await reviews.claim(review_id, identity.tenant)


@router.post("/{review_id}/release")
async def release_review(request: Request, review_id: str) -> dict[str, Any]:
    """Give a ticket back."""
    _, reviews, identity = _reviewer(request)
    return await reviews.release(review_id, identity.tenant)


@router.post("/{review_id}/verdict")
async def decide_review(request: Request, review_id: str) -> dict[str, Any]:
    """Accept the winner, choose another candidate, write the reply anew, or reject them all."""
    state, reviews, identity = _reviewer(request)
    verdict = parse(await read_body(request, state.settings.max_body_bytes), Verdict)
    return await reviews.decide(review_id, identity.tenant, verdict)


def _reviewer(request: Request) -> tuple[AppState, Reviews, Identity]:
    state = state_of(request)
    identity = identify(request, state)
    identity.require("operator", "admin")
    if state.reviews is None:
        raise NotFound("this gateway keeps no store, so nothing waits for review", code="no_store")
    return state, state.reviews, identity
