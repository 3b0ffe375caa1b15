"""POST /v1/feedback: a thumb, a rating or a preference from an application's users."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from service.api.http.body import read_body
from service.api.http.state import admit, identify, state_of
from service.api.openapi import takes
from service.errors import NotFound
from service.request.schemas import parse
from service.reviews.feedback import Feedback, candidates_of, is_answer_of, keep_feedback, require_candidates
from service.store.redaction import redactor_of

router = APIRouter()


class KeptFeedback(BaseModel):
    """What was kept."""

    id: str


@router.post("/v1/feedback", status_code=201, response_model=KeptFeedback)
@takes(Feedback)
async def post_feedback(request: Request) -> dict[str, Any]:
    """Keep a thumb, a rating or a preference of one of the tenant's own answers; kept when this returns."""
    state = state_of(request)
    identity = identify(request, state)
    await admit(request, state, identity)
    opinion = parse(await read_body(request, state.settings.max_body_bytes), Feedback)
    engine = state.required_engine
    recent = state.recent.get(opinion.response_id, identity.tenant)
    if recent is None and not await is_answer_of(engine, opinion.response_id, identity.tenant):
        raise NotFound(
            f"no answer of yours has the id {opinion.response_id}", param="response_id", code="response_not_found"
        )
    if recent is not None:
        require_candidates(opinion, {candidate["index"] for candidate in recent["candidates"]})
    else:
        require_candidates(opinion, await candidates_of(engine, opinion.response_id))
    user = state.recent.user_of(opinion.response_id, identity.tenant)
    redactor = redactor_of(state.settings.store)
    return {"id": await keep_feedback(engine, identity.tenant, opinion, user, redactor)}
