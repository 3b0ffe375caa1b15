"""What the app holds and a handler needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request

from service.admission.admission import Admission
from service.errors import NotFound, RateLimited
from service.identity import Identity
from service.keys.keyring import Keyring
from service.request.pipeline import Pipeline
from service.request.recent import RecentResponses
from service.reviews.queue import Reviews
from service.settings import Settings
from service.store.privacy.vault import vault_of
from service.telemetry.metrics import Metrics
from service.telemetry.otel import Tracing
from service.telemetry.summary import note
from service.upstream.health import Health


@dataclass
class AppState:
    """Built in the lifespan, passed to handlers through the app."""

    settings: Settings
    keyring: Keyring
    admission: Admission
    metrics: Metrics
    pipeline: Pipeline
    recent: RecentResponses
    health: Health
    engine: AsyncEngine | None
    tracing: Tracing | None

    @property
    def reviews(self) -> Reviews | None:
        """The queue of reviews; None where nothing is kept."""
        store = self.settings.store
        return Reviews(self.engine, vault_of(store), tells=store.webhook_url is not None) if self.engine else None

    @property
    def required_engine(self) -> AsyncEngine:
        """The store. Raises NotFound if nothing is kept, and so there is nothing to show."""
        if self.engine is None:
            raise NotFound("this gateway keeps no store, so there is nothing of this kind here", code="no_store")
        return self.engine

    @property
    def required_reviews(self) -> Reviews:
        """The queue of reviews. Raises NotFound if nothing is kept."""
        return self.reviews or Reviews(self.required_engine)


def state_of(request: Request) -> AppState:
    """The app's state."""
    return cast(AppState, request.app.state.winnow)


def identify(request: Request, state: AppState) -> Identity:
    """Who asks; NotAuthenticated without a key."""
    identity = state.keyring.identify(request.headers.get("authorization"))
    note(tenant=identity.tenant)
    return identity


async def admit(request: Request, state: AppState, identity: Identity) -> dict[str, str]:
    """Count a request. The headers that are returned go out with its response, whatever becomes of it, and may be
    added to until it starts."""
    headers: dict[str, str] = {}
    request.state.response_headers = headers
    try:
        with state.metrics.stage("admission"):
            headers |= await state.admission.admit(identity)
    except RateLimited as error:
        headers |= error.headers
        raise
    return headers
