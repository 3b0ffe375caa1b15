"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.api.answers import ModelCard, ModelList
from service.api.http.state import identify, state_of
from service.errors import NotFound
from service.request.respond import MODEL

router = APIRouter()
_CREATED = 1_760_000_000


def _model() -> dict[str, Any]:
    return {"id": MODEL, "object": "model", "created": _CREATED, "owned_by": "winnow"}


@router.get("/v1/models", responses={200: {"model": ModelList}})
async def list_models(request: Request) -> dict[str, Any]:
    """The one model a client names; routes choose what answers."""
    identify(request, state_of(request))
    return {"object": "list", "data": [_model()]}


@router.get("/v1/models/{model}", responses={200: {"model": ModelCard}})
async def get_model(request: Request, model: str) -> dict[str, Any]:
    """One model by name."""
    identify(request, state_of(request))
    if model != MODEL:
        raise NotFound(f"there is no model {model!r} here", param="model", code="model_not_found")
    return _model()
