"""/v1/audits: pairs of replies that annotators judge blind. For operators and admins."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from service.api.http.body import read_body
from service.api.http.lists import IdInPath, ListPage, cursor, listed
from service.api.http.state import AppState, identify, state_of
from service.api.openapi import takes
from service.audits.judging import AuditLabel, Audits
from service.identity import Identity
from service.request.schemas import parse
from service.store.pages import Cursor
from service.store.redaction import redactor_of

router = APIRouter(prefix="/v1/audits")


class AuditProgress(BaseModel):
    """An audit, and how far it is labelled, as far as the key sees its answers."""

    id: str
    at_ms: int
    since_ms: int
    until_ms: int
    seed: int
    strata: Any
    left_out: Any
    items: int
    labels_wanted: int
    labels: int


class BlindItem(BaseModel):
    """A pair to judge; `item` is null if nothing is left."""

    item: str | None
    prompt: list[dict[str, Any]] | None = None
    left: dict[str, Any] | None = None
    right: dict[str, Any] | None = None


class StoredAuditLabel(AuditLabel):
    """A label as it was kept."""

    item: str
    annotator: str


@router.get("", response_model=ListPage[AuditProgress])
async def list_audits(request: Request, page: Annotated[Cursor, Depends(cursor)]) -> dict[str, Any]:
    """Audits, the newest first, with how far each is labelled."""
    _, audits, _ = _annotator(request)
    return listed(await audits.page(page))


@router.post("/{audit_id}/next", response_model=BlindItem, response_model_exclude_unset=True)
async def next_item(request: Request, audit_id: IdInPath) -> dict[str, Any]:
    """A pair to judge, held for a quarter of an hour: `{"item", "prompt", "left", "right"}`, or `{"item": null}`."""
    _, audits, identity = _annotator(request)
    return await audits.next(audit_id, identity.actor) or {"item": None}


@router.put("/{audit_id}/items/{item_id}", response_model=StoredAuditLabel)
@takes(AuditLabel)
async def label_item(request: Request, audit_id: IdInPath, item_id: IdInPath) -> dict[str, Any]:
    """Keep what this annotator says of a pair; kept when this returns, in place of what they said before."""
    state, audits, identity = _annotator(request)
    label = parse(await read_body(request, state.settings.max_body_bytes), AuditLabel)
    await audits.label(audit_id, identity.actor, [(item_id, label)])
    return {"item": item_id, "annotator": identity.actor, **label.model_dump()}


def _annotator(request: Request) -> tuple[AppState, Audits, Identity]:
    state = state_of(request)
    identity = identify(request, state)
    identity.require("operator", "admin")
    return state, Audits(state.required_engine, identity.visible, redactor_of(state.settings.store)), identity
