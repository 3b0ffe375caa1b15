"""What a gateway is made of, built when it starts and closed when it stops."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

import aiohttp
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from routing.batcher import QuickRouter, RouteBatcher
from routing.router import Router
from service.admission.admission import Admission
from service.admission.rates import Rates
from service.api.http.state import AppState
from service.audits.judging import Audits
from service.audits.watch import watch_audits
from service.background import Background, running_background
from service.errors import PolicyUnavailable, ScorerUnavailable
from service.keys.keyring import Keyring
from service.request.pipeline import Pipeline
from service.request.recent import RecentResponses
from service.reviews.queue import Reviews, measure_backlog
from service.reviews.webhook import Webhook, WebhookPace
from service.settings import Settings, StoreSettings
from service.store.history import History, open_history
from service.store.privacy.retention import follow_forgotten, forget_on_and_on
from service.store.privacy.vault import vault_of
from service.telemetry.metrics import Metrics
from service.telemetry.otel import Tracing, open_tracing
from service.upstream.connections import open_session
from service.upstream.guard import Guard
from service.upstream.health import Checked, Health
from service.upstream.policy import HttpPolicy, Policy
from service.upstream.scorer import HttpScorer, Scorer

# People label a pair in a minute or so.
_WATCH_SECONDS = 30.0


@dataclass(frozen=True)
class Seams:
    """What a caller may put in place of what the settings name."""

    router: QuickRouter
    policies: Mapping[str, Policy] | None
    scorer: Scorer | None
    registry: CollectorRegistry
    tracing: Tracing | None
    webhook_pace: WebhookPace | None


@asynccontextmanager
async def assembled(settings: Settings, keyring: Keyring, seams: Seams) -> AsyncIterator[AppState]:
    """A running gateway's parts. Raises SetupError if the store or the limits' store cannot be opened."""
    metrics = Metrics(seams.registry)
    metrics.keys.broken.set_function(lambda: keyring.problem is not None)
    admission = Admission(
        settings.max_inflight_candidates, settings.tenant, Rates(metrics, settings.limits_url), metrics
    )
    router = RouteBatcher(seams.router)
    async with (
        open_session(settings.upstreams) as session,
        open_tracing(settings.traces_endpoint) as exporting,
        running_background(metrics) as background,
        open_history(settings.store, metrics, background) as history,
    ):
        guards = _guards(settings, metrics)
        policies = seams.policies or _policies(settings, session, guards)
        scorer = seams.scorer or HttpScorer(
            settings.scorer_url,
            settings.scorer_api_key,
            session,
            guards["scorer"],
            salted=settings.scorer_cache_salt,
        )
        _name_models(settings, policies, seams.router, metrics)
        recent = RecentResponses(settings.remembered_responses)
        if history is not None:
            _start_loops(background, history.engine, settings.store, metrics, recent)
            if (url := settings.store.webhook_url) is not None:
                secret, pace = settings.store.webhook_secret, seams.webhook_pace
                background.start("webhook", Webhook(history.engine, url, secret, metrics, pace).run)
        pipeline = Pipeline(settings, policies, scorer, router, metrics, admission, recent, history)
        health = _health(policies, scorer, guards, history, background)
        engine = history.engine if history else None
        tracing = seams.tracing or exporting
        try:
            yield AppState(settings, keyring, admission, metrics, pipeline, recent, health, engine, tracing)
        finally:
            await router.close()
            await admission.close()


def _start_loops(
    background: Background, engine: AsyncEngine, settings: StoreSettings, metrics: Metrics, recent: RecentResponses
) -> None:
    """What a store needs beside the requests: counts and retention."""
    background.start("audit_metrics", lambda: watch_audits(Audits(engine), metrics, _WATCH_SECONDS))
    background.start("review_metrics", lambda: measure_backlog(Reviews(engine), metrics))
    background.start("retention", lambda: forget_on_and_on(engine, settings.days, vault_of(settings)))
    background.start("forgetting", lambda: follow_forgotten(engine, recent.forget_digest))


def _policies(settings: Settings, session: aiohttp.ClientSession, guards: Mapping[str, Guard]) -> dict[str, HttpPolicy]:
    names = ("default", *settings.policies)
    return {name: HttpPolicy(settings.policy(name), session, guards[f"policy:{name}"]) for name in names}


def _guards(settings: Settings, metrics: Metrics) -> dict[str, Guard]:
    """One for each upstream, by the name that health and metrics give it."""
    guards = {"scorer": Guard("scorer", ScorerUnavailable, settings.upstreams, metrics)}
    for name in ("default", *settings.policies):
        guards[f"policy:{name}"] = Guard(f"policy:{name}", PolicyUnavailable, settings.upstreams, metrics)
    return guards


def _name_models(settings: Settings, policies: Mapping[str, Policy], router: QuickRouter, metrics: Metrics) -> None:
    models = metrics.upstream.models
    models.labels("gateway", version("winnow-rerank")).set(1)
    for name in policies:
        models.labels("policy", settings.policy(name).model).set(1)
    if isinstance(router, Router):
        models.labels("router", router.manifest.id).set(1)


def _health(
    policies: Mapping[str, Policy],
    scorer: Scorer,
    guards: Mapping[str, Guard],
    history: History | None,
    background: Background,
) -> Health:
    upstreams: dict[str, Checked] = {"scorer": scorer}
    upstreams |= {f"policy:{name}": policy for name, policy in policies.items()}
    store = None if history is None else history.answers
    return Health(upstreams, guards, store, lambda: _down(background, history))


def _down(background: Background, history: History | None) -> frozenset[str]:
    """The background tasks that do not run; the writer of the history is one."""
    return frozenset(background.down | (set() if history is None or history.writing else {"history"}))
