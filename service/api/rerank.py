"""GET /v1/rerank/{response id}: the `rerank` object later, for clients whose library drops it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.api.state import identify, state_of

router = APIRouter()


@router.get("/v1/rerank/{response_id}")
async def get_rerank(request: Request, response_id: str) -> dict[str, Any]:
    """What was decided about one of the tenant's recent responses."""
    state = state_of(request)
    identity = identify(request, state)
    return {"id": response_id, "rerank": state.recent.find(response_id, identity.tenant)}
