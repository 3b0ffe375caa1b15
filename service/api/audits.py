"""/v1/audits: pairs of replies that annotators judge blind. For operators and admins."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.api.body import read_body
from service.api.state import AppState, identify, state_of
from service.audits.judging import AuditLabel, Audits
from service.errors import NotFound
from service.identity import Identity
from service.request.schemas import parse

router = APIRouter(prefix="/v1/audits")


@router.get("")
async def list_audits(request: Request) -> dict[str, Any]:
    """Audits, the newest first, with how far each is labelled."""
    _, audits, _ = _annotator(request)
    return {"object": "list", "data": await audits.listed()}


@router.post("/{audit_id}/next")
async def next_item(request: Request, audit_id: str) -> dict[str, Any]:
    """A pair to judge, held for a quarter of an hour: `{"item", "prompt", "left", "right"}`, or `{"item": null}`."""
    _, audits, identity = _annotator(request)
    return await audits.next(audit_id, identity.tenant) or {"item": None}


@router.put("/{audit_id}/items/{item_id}")
async def label_item(request: Request, audit_id: str, item_id: str) -> dict[str, Any]:
    """Keep what this annotator says of a pair; kept when this returns, in place of what they said before."""
    state, audits, identity = _annotator(request)
    label = parse(await read_body(request, state.settings.max_body_bytes), AuditLabel)
    await audits.label(audit_id, identity.tenant, [(item_id, label)])
    return {"item": item_id, "annotator": identity.tenant, **label.model_dump()}


def _annotator(request: Request) -> tuple[AppState, Audits, Identity]:
    state = state_of(request)
    identity = identify(request, state)
    identity.require("operator", "admin")
    if state.engine is None:
        raise NotFound("this gateway keeps no store, so there are no audits", code="no_store")
    return state, Audits(state.engine), identity
