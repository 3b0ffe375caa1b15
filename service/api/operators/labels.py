"""GET /v1/labels/...: verdicts, feedback and audit labels as rows for the trainer. For operators and admins."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BeforeValidator

from service.api.http.lists import ListPage, cursor
from service.api.http.state import identify, state_of
from service.labels.reading import Scope, read_labels
from service.store.pages import Cursor

router = APIRouter(prefix="/v1/labels")


def _not_a_number(value: object) -> object:
    """A bare number would be read as seconds or milliseconds, whichever seems likelier."""
    if isinstance(value, str) and value.strip().lstrip("+-").replace(".", "", 1).isdigit():
        raise ValueError("must be a date and time, such as 2026-11-25T12:00:00Z")
    return value


Moment = Annotated[datetime.datetime, BeforeValidator(_not_a_number)]


@router.get("/{kind}", response_model=ListPage[dict[str, Any]])
async def get_labels(
    request: Request,
    kind: Literal["pairs", "replies"],
    page: Annotated[Cursor, Depends(cursor)],
    since: Moment | None = None,
    until: Moment | None = None,
) -> dict[str, Any]:
    """Pairs or labelled replies judged in [since, until), the oldest first; times without a zone are UTC.

    Rows have the trainer's schemas. `limit`, `after`, `before`, `first_id` and `last_id` are of judgements (tickets,
    feedback, items of audits), which give a row or two, or none. Go on from the last export by giving its `until` as
    `since`.
    """
    state = state_of(request)
    identity = identify(request, state)
    identity.require("operator", "admin")
    high_stakes = {name for name, route in state.settings.routes.items() if route.strategy == "best_of_n"}
    scope = Scope(_ms(since, 0), _ms(until, 2**62), identity.visible)
    labels = await read_labels(state.required_engine, kind, scope, page, high_stakes)
    ends = {"first_id": labels.first_id, "last_id": labels.last_id}
    return {"object": "list", "data": labels.rows, **ends, "has_more": labels.has_more}


def _ms(at: datetime.datetime | None, otherwise: int) -> int:
    if at is None:
        return otherwise
    return int((at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp() * 1000)
