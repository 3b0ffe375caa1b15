"""GET /v1/rerank/{response id}: the `rerank` object later, for clients whose library drops it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.api.state import identify, state_of

router = APIRouter()


@router.get("/v1/rerank/{response_id}")
async def get_rerank(request: Request, response_id: str) -> dict[str, Any]:
    """What was decided about one of the tenant's recent responses, and what a person made of it since."""
    state = state_of(request)
    identity = identify(request, state)
    review = await state.reviews.answer(response_id, identity.tenant) if state.reviews else None
    if review is None:
        return {"id": response_id, "rerank": state.recent.find(response_id, identity.tenant)}
    # A ticket outlives what this process remembers, and may come from another one.
    rerank = state.recent.get(response_id, identity.tenant)
    return {"id": response_id, "rerank": rerank, "review": review}
