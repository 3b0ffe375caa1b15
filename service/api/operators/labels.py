"""GET /v1/labels/...: verdicts, feedback and audit labels as rows for the trainer. For operators and admins."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from pydantic import BeforeValidator

from service.api.http.state import identify, state_of
from service.labels import read_labels

router = APIRouter(prefix="/v1/labels")


def _not_a_number(value: object) -> object:
    """A bare number would be read as seconds or milliseconds, whichever seems likelier."""
    if isinstance(value, str) and value.strip().lstrip("+-").replace(".", "", 1).isdigit():
        raise ValueError("must be a date and time, such as 2026-11-25T12:00:00Z")
    return value


Moment = Annotated[datetime.datetime, BeforeValidator(_not_a_number)]


@router.get("/{kind}", response_class=StreamingResponse, responses={200: {"content": {"application/x-ndjson": {}}}})
async def get_labels(
    request: Request,
    kind: Literal["pairs", "replies"],
    since: Moment | None = None,
    until: Moment | None = None,
) -> StreamingResponse:
    """JSON lines of pairs or labelled replies judged in [since, until); times without a zone are UTC.

    Rows have the trainer's schemas. Go on from the last export by giving its `until` as `since`.
    """
    state = state_of(request)
    identity = identify(request, state)
    identity.require("operator", "admin")
    high_stakes = {name for name, route in state.settings.routes.items() if route.strategy == "best_of_n"}
    times = _ms(since, 0), _ms(until, 2**62)
    pairs, replies = await read_labels(state.required_engine, *times, identity.visible, high_stakes)
    rows: list[Any] = pairs if kind == "pairs" else replies
    return StreamingResponse((orjson.dumps(row) + b"\n" for row in rows), media_type="application/x-ndjson")


def _ms(at: datetime.datetime | None, otherwise: int) -> int:
    if at is None:
        return otherwise
    return int((at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp() * 1000)
