"""GET /v1/rerank/{response id}: the `rerank` object again, for clients whose library drops unknown fields."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.api.http.lists import IdInPath
from service.api.http.state import identify, state_of
from service.errors import NotFound
from service.store.lookup import find_rerank

router = APIRouter()


@router.get("/v1/rerank/{response_id}")
async def get_rerank(request: Request, response_id: IdInPath) -> dict[str, Any]:
    """What was decided about one of the tenant's responses, and what a person made of it since."""
    state = state_of(request)
    identity = identify(request, state)
    rerank = state.recent.get(response_id, identity.tenant)
    if rerank is None and state.engine is not None:
        # An earlier process answered, or another gateway.
        rerank = await find_rerank(state.engine, response_id, identity.tenant)
    if rerank is None:
        raise NotFound(f"no response of yours has the id {response_id}", param="id", code="response_not_found")
    review = await state.reviews.answer(response_id, identity.tenant) if state.reviews else None
    return {"id": response_id, "rerank": rerank} | ({"review": review} if review else {})
