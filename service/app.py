"""The gateway's ASGI app: its endpoints and the middleware around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from routing.batcher import QuickRouter
from routing.errors import RoutingError
from routing.router import Router
from service.api import chat, completions, feedback, health, models, rerank
from service.api.http.cors import allow_origins
from service.api.http.draining import Drain, DrainMiddleware
from service.api.http.failures import add_error_handlers
from service.api.http.request_scope import RequestScope
from service.api.openapi import serve_document
from service.api.operators import administration, audits, labels, reviews, users
from service.api.responses import route as responses
from service.assembly import Seams, assembled
from service.errors import SetupError
from service.keys.keyring import Keyring
from service.reviews.webhook import WebhookPace
from service.settings import Settings
from service.telemetry.otel import Tracing
from service.upstream.policy import Policy
from service.upstream.scorer import Scorer

_CLIENTS = (chat, completions, responses, models, rerank, feedback)
_OPERATORS = (reviews, audits, labels, users, administration, health)


def create_app(
    settings: Settings,
    *,
    policies: Mapping[str, Policy] | None = None,
    scorer: Scorer | None = None,
    router: QuickRouter | None = None,
    registry: CollectorRegistry | None = None,
    tracing: Tracing | None = None,
    webhook_pace: WebhookPace | None = None,
) -> FastAPI:
    """The app; what is not given is made from the settings.

    Raises SetupError at once if there is no keys file, for nobody is served without an identity, or if the router
    names a route that is not configured.
    """
    if settings.keys_file is None:
        raise SetupError(
            "no keys file is set: make a key with `winnow key make TENANT --keys FILE`, then set keys_file"
        )
    keyring = Keyring(settings.keys_file)
    seams = Seams(router or _router(settings), policies, scorer, registry or CollectorRegistry(), tracing, webhook_pace)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with assembled(settings, keyring, seams) as state:
            app.state.winnow = state
            yield

    app = FastAPI(title="Winnow", version=version("winnow-rerank"), lifespan=lifespan, docs_url=None, redoc_url=None)
    for module in (*_CLIENTS, *_OPERATORS):
        app.include_router(module.router)
    app.state.drain = Drain()
    app.add_middleware(DrainMiddleware, drain=app.state.drain)
    app.add_middleware(RequestScope)
    allow_origins(app, settings.cors_origins)
    add_error_handlers(app)
    serve_document(app, settings)
    return app


def _router(settings: Settings) -> Router:
    """The router of the settings, every route of which must be configured."""
    try:
        router = Router.load(settings=settings.router)
        router.need_routes(settings.routes)
    except RoutingError as error:
        raise SetupError(str(error)) from error
    return router
