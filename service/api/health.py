"""/livez, /readyz, /health and /metrics: for orchestrators and Prometheus, without a key."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from service.api.state import state_of

router = APIRouter()


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The event loop runs."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """200 when every upstream answers, else 503 with the ones that do not."""
    states = await state_of(request).readiness.states()
    body = {"status": "ready" if all(states.values()) else "not ready", "upstreams": _named(states)}
    return Response(orjson.dumps(body), 200 if all(states.values()) else 503, media_type="application/json")


@router.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """A summary for people."""
    state = state_of(request)
    states = await state.readiness.states()
    return {
        "status": "ok" if all(states.values()) else "degraded",
        "version": version("winnow-rerank"),
        "profile": state.settings.profile,
        "upstreams": _named(states),
        "inflight": state.admission.inflight,
        "keys": "current"
        if state.keyring.problem is None
        else "the keys file cannot be read; earlier keys are in force",
    }


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus or OpenMetrics text, as the scraper accepts."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(state_of(request).metrics.registry), media_type=content_type)


def _named(states: dict[str, bool]) -> dict[str, str]:
    return {name: "up" if up else "down" for name, up in states.items()}
