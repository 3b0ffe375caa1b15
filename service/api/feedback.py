"""POST /v1/feedback: a thumb, a rating or a preference from an application's users."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.api.body import read_body
from service.api.state import admit, identify, state_of
from service.errors import NotFound
from service.request.schemas import parse
from service.reviews.feedback import Feedback, is_answer_of, keep_feedback

router = APIRouter()


@router.post("/v1/feedback", status_code=201)
async def post_feedback(request: Request) -> dict[str, Any]:
    """Keep a thumb, a rating or a preference of one of the tenant's own answers; kept when this returns."""
    state = state_of(request)
    identity = identify(request, state)
    await admit(request, state, identity)
    said = parse(await read_body(request, state.settings.max_body_bytes), Feedback)
    if state.engine is None:
        raise NotFound("this gateway keeps no store, so no feedback either", code="no_store")
    recent = state.recent.get(said.response_id, identity.tenant) is not None
    if not recent and not await is_answer_of(state.engine, said.response_id, identity.tenant):
        raise NotFound(
            f"no answer of yours has the id {said.response_id}", param="response_id", code="response_not_found"
        )
    return {"id": await keep_feedback(state.engine, identity.tenant, said)}
