"""The gateway's ASGI app: what is built at startup, the routes, and the middleware around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from routing.router import Router
from service.admission.admission import Admission
from service.admission.rates import Rates
from service.api import (
    administration,
    audits,
    chat,
    completions,
    feedback,
    health,
    labels,
    models,
    rerank,
    reviews,
    users,
)
from service.api.cors import allow_origins
from service.api.draining import Drain, DrainMiddleware
from service.api.failures import add_error_handlers
from service.api.request_scope import RequestScope
from service.api.responses import route as responses
from service.api.state import AppState
from service.audits.judging import Audits
from service.audits.watch import watch_audits
from service.background import Background, running_background
from service.errors import PolicyUnavailable, ScorerUnavailable, SetupError
from service.keys.keyring import Keyring
from service.metrics import Metrics
from service.otel import Tracing, open_tracing
from service.request.pipeline import Pipeline, RequestRouter
from service.request.recent import RecentResponses
from service.reviews.queue import Reviews, measure_backlog
from service.reviews.webhook import Webhook
from service.settings import Settings, StoreSettings
from service.store.history import History, open_history
from service.store.retention import follow_forgotten, forget_on_and_on
from service.store.vault import vault_of
from service.upstream.connections import open_session
from service.upstream.guard import Guard
from service.upstream.health import Checked, Health
from service.upstream.policy import HttpPolicy, Policy
from service.upstream.scorer import HttpScorer, Scorer

# People label a pair in a minute or so.
_WATCH_SECONDS = 30.0


def create_app(
    settings: Settings,
    *,
    policies: Mapping[str, Policy] | None = None,
    scorer: Scorer | None = None,
    router: RequestRouter | None = None,
    registry: CollectorRegistry | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The app; what is not given is made from the settings.

    Raises SetupError at once when there is no keys file: nobody is served without an identity.
    """
    if settings.keys_file is None:
        raise SetupError(
            "no keys file is set: make a key with `winnow key make TENANT --keys FILE`, then set keys_file"
        )
    keyring = Keyring(settings.keys_file)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        metrics = Metrics(registry or CollectorRegistry())
        metrics.keys.broken.set_function(lambda: keyring.problem is not None)
        rates = Rates(metrics, settings.limits_url)
        admission = Admission(settings.max_inflight_candidates, settings.tenant, rates, metrics)
        async with (
            open_session(settings.upstreams) as session,
            open_tracing(settings.traces_endpoint) as exporting,
            running_background(metrics) as background,
            open_history(settings.store, metrics, background) as history,
        ):
            names = {"default", *settings.policies}
            guards = _guards(settings, metrics)
            app.state.winnow = _state(
                settings,
                keyring,
                policies
                or {name: HttpPolicy(settings.policy(name), session, guards[f"policy:{name}"]) for name in names},
                scorer or HttpScorer(settings.scorer_url, settings.scorer_api_key, session, guards["scorer"]),
                router or Router.load(settings=settings.router),
                metrics,
                admission,
                tracing or exporting,
                history,
                background,
                guards,
            )
            if history is not None:
                recent = app.state.winnow.recent
                _start_loops(background, history.engine, settings.store, metrics, recent)
            try:
                yield
            finally:
                await admission.close()

    app = FastAPI(title="Winnow", version=version("winnow-rerank"), lifespan=lifespan, docs_url=None, redoc_url=None)
    for module in (
        chat,
        completions,
        responses,
        models,
        rerank,
        feedback,
        reviews,
        audits,
        labels,
        users,
        administration,
        health,
    ):
        app.include_router(module.router)
    app.state.drain = Drain()
    app.add_middleware(DrainMiddleware, drain=app.state.drain)
    app.add_middleware(RequestScope)
    allow_origins(app, settings.cors_origins)
    add_error_handlers(app)
    return app


def _start_loops(
    background: Background, engine: AsyncEngine, settings: StoreSettings, metrics: Metrics, recent: RecentResponses
) -> None:
    """What a store needs beside the requests: counts, deliveries, retention."""
    background.start("audit_metrics", lambda: watch_audits(Audits(engine), metrics, _WATCH_SECONDS))
    background.start("review_metrics", lambda: measure_backlog(Reviews(engine), metrics))
    if (url := settings.webhook_url) is not None:
        background.start("webhook", Webhook(engine, url, settings.webhook_secret, metrics).run)
    background.start("retention", lambda: forget_on_and_on(engine, settings.days, vault_of(settings)))
    background.start("forgetting", lambda: follow_forgotten(engine, recent.forget_digest))


def _state(
    settings: Settings,
    keyring: Keyring,
    policies: Mapping[str, Policy],
    scorer: Scorer,
    router: RequestRouter,
    metrics: Metrics,
    admission: Admission,
    tracing: Tracing | None,
    history: History | None,
    background: Background,
    guards: Mapping[str, Guard],
) -> AppState:
    recent = RecentResponses(settings.remembered_responses)
    metrics.upstream.models.labels("gateway", version("winnow-rerank")).set(1)
    for name in policies:
        metrics.upstream.models.labels("policy", settings.policy(name).model).set(1)
    if isinstance(router, Router):
        metrics.upstream.models.labels("router", router.manifest.id).set(1)
    pipeline = Pipeline(settings, policies, scorer, router, metrics, admission, recent, history)
    engine = history.engine if history else None
    upstreams: dict[str, Checked] = {
        "scorer": scorer,
        **{f"policy:{name}": policy for name, policy in policies.items()},
    }
    store = None if history is None else history.answers
    works = Health(upstreams, guards, store, lambda: _down(background, history))
    return AppState(settings, keyring, admission, metrics, pipeline, recent, works, engine, tracing)


def _guards(settings: Settings, metrics: Metrics) -> dict[str, Guard]:
    """One for each upstream, by the name that health and metrics give it."""
    guards = {"scorer": Guard("scorer", ScorerUnavailable, settings.upstreams, metrics)}
    for name in ("default", *settings.policies):
        guards[f"policy:{name}"] = Guard(f"policy:{name}", PolicyUnavailable, settings.upstreams, metrics)
    return guards


def _down(background: Background, history: History | None) -> frozenset[str]:
    """The background tasks that do not run; the writer of the history is one."""
    return frozenset(background.down | (set() if history is None or history.writing else {"history"}))
