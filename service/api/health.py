"""/livez, /readyz, /health and /metrics: for orchestrators and Prometheus, without a key, by GET or HEAD."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import choose_encoder

from service.api.http.state import AppState, state_of
from service.upstream.readiness import Readiness, assess

router = APIRouter()


@router.head("/livez", include_in_schema=False)
@router.get("/livez")
async def livez() -> dict[str, str]:
    """The event loop runs."""
    return {"status": "alive"}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """200 if any route can be answered as configured, else 503; the body says what does not work."""
    readiness, body = await _assessed(state_of(request))
    return Response(orjson.dumps(body), 200 if readiness.ready else 503, media_type="application/json")


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health(request: Request) -> dict[str, Any]:
    """A summary for people."""
    state = state_of(request)
    readiness, body = await _assessed(state)
    return {
        **body,
        "status": "ok" if readiness.status == "ready" else readiness.status,
        "version": version("winnow-rerank"),
        "profile": state.settings.profile,
        "circuits": state.health.circuits(),
        "inflight": state.admission.inflight,
        "keys": "current"
        if state.keyring.problem is None
        else "the keys file cannot be read; earlier keys are in force",
    }


@router.head("/metrics", include_in_schema=False)
@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus or OpenMetrics text, as the scraper accepts."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(state_of(request).metrics.registry), media_type=content_type)


async def _assessed(state: AppState) -> tuple[Readiness, dict[str, Any]]:
    facts = await state.health.facts()
    readiness = assess(state.settings, facts)
    body: dict[str, Any] = {
        "status": readiness.status,
        "upstreams": {name: _word(up) for name, up in facts.upstreams.items()},
        "routes": readiness.routes,
        "problems": readiness.problems,
    }
    return readiness, body if facts.store is None else body | {"store": _word(facts.store)}


def _word(up: bool) -> str:
    return "up" if up else "down"
