"""/v1/settings and /v1/actions: the settings in force, and the log of operators' actions. For admins."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from service.api.http.lists import Limit, ListPage, listed
from service.api.http.state import identify, state_of
from service.store.actions import read_actions

router = APIRouter(prefix="/v1")
_SECRETS = ("api_key", "encryption_key", "secret")
_PASSWORD = re.compile(r"(://[^:/@]*):[^/@]*@")
_HIDDEN = "***"


class LoggedAction(BaseModel):
    """What an operator did."""

    id: int
    at_ms: int
    actor: str
    action: str
    subject: str
    details: dict[str, Any]


@router.get("/settings")
async def get_settings(request: Request) -> dict[str, Any]:
    """Every setting as it is in force; what opens doors is hidden. Needs a key that sees every tenant."""
    state = state_of(request)
    identity = identify(request, state)
    identity.require("admin")
    identity.require_every_tenant()
    shown: dict[str, Any] = _without_secrets(state.settings.model_dump(mode="json"))
    return shown


@router.get("/actions", response_model=ListPage[LoggedAction])
async def list_actions(
    request: Request,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="Id to go on from, to older ones.")] = None,
    limit: Limit = 50,
) -> dict[str, Any]:
    """What operators did to what the key may see, the newest first. Nothing here can be changed."""
    state = state_of(request)
    identity = identify(request, state)
    identity.require("admin")
    async with state.required_engine.connect() as connection:
        return listed(await read_actions(connection, identity.visible, before, limit))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _HIDDEN if name.endswith(_SECRETS) and inner else _without_secrets(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return _PASSWORD.sub(rf"\1:{_HIDDEN}@", value) if isinstance(value, str) else value
