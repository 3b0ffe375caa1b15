"""/v1/settings and /v1/actions: the settings in force, and the log of operators' actions. For admins."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from sqlalchemy import select

from service.api.state import identify, state_of
from service.errors import NotFound
from service.store.tables import actions

router = APIRouter(prefix="/v1")
_SECRETS = ("api_key", "encryption_key", "secret")
_PASSWORD = re.compile(r"(://[^:/@]*):[^/@]*@")
_HIDDEN = "***"


@router.get("/settings")
async def get_settings(request: Request) -> dict[str, Any]:
    """Every setting as it is in force; what opens doors is hidden."""
    state = state_of(request)
    identify(request, state).require("admin")
    shown: dict[str, Any] = _without_secrets(state.settings.model_dump(mode="json"))
    return shown


@router.get("/actions")
async def list_actions(
    request: Request,
    before: int | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> dict[str, Any]:
    """What operators did, the newest first; `before` is the id to go on from. Nothing here can be changed."""
    state = state_of(request)
    identify(request, state).require("admin")
    if state.engine is None:
        raise NotFound("this gateway keeps no store, so there is no log", code="no_store")
    wanted = select(actions).order_by(actions.c.id.desc()).limit(limit)
    if before is not None:
        wanted = wanted.where(actions.c.id < before)
    async with state.engine.connect() as connection:
        return {"object": "list", "data": [dict(row) for row in (await connection.execute(wanted)).mappings()]}


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _HIDDEN if name.endswith(_SECRETS) and inner else _without_secrets(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return _PASSWORD.sub(rf"\1:{_HIDDEN}@", value) if isinstance(value, str) else value
