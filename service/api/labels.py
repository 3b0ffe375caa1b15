"""GET /v1/labels/...: verdicts, feedback and audit labels as rows for the trainer. For operators and admins."""

from __future__ import annotations

import datetime
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from service.api.state import identify, state_of
from service.errors import NotFound
from service.labels import read_labels

router = APIRouter(prefix="/v1/labels")


@router.get("/{kind}")
async def get_labels(
    request: Request,
    kind: Literal["pairs", "replies"],
    since: datetime.datetime | None = None,
    until: datetime.datetime | None = None,
) -> StreamingResponse:
    """JSON lines of pairs or labelled replies judged in [since, until); times without a zone are UTC."""
    state = state_of(request)
    identify(request, state).require("operator", "admin")
    if state.engine is None:
        raise NotFound("this gateway keeps no store, so there are no labels", code="no_store")
    pairs, replies = await read_labels(state.engine, _ms(since, 0), _ms(until, 2**62))
    rows: list[Any] = pairs if kind == "pairs" else replies
    return StreamingResponse((orjson.dumps(row) + b"\n" for row in rows), media_type="application/x-ndjson")


def _ms(at: datetime.datetime | None, otherwise: int) -> int:
    if at is None:
        return otherwise
    return int((at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp() * 1000)
