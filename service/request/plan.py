"""What will be done with a request: the route's settings, narrowed by the request's own wishes."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any, Literal

from reward_model.stopping import StoppingRule
from routing.routes import Route
from service.errors import InvalidRequest
from service.identity import Identity
from service.request.schemas import ChatRequest
from service.settings import RouteSettings

Strategy = Literal["best_of_n", "greedy"]


@dataclass(frozen=True)
class Plan:
    """A request as it will be carried out."""

    route: Route
    route_probability: float
    settings: RouteSettings
    strategy: Strategy
    n: int
    temperature: float
    budget_ms: int
    accept_threshold: float
    seed: int
    messages: list[dict[str, Any]]
    max_tokens: int
    options: dict[str, Any]
    cache_salt: str
    locale: str | None = None
    stopping: StoppingRule = field(default_factory=StoppingRule)

    @property
    def stopping_rule(self) -> str:
        """What a calibrator must have been fitted under."""
        return self.stopping.name

    def body(self, index: int, *, greedy: bool = False) -> dict[str, Any]:
        """The policy's request for candidate `index`: its own seed, the tenant's cache salt."""
        return {
            **self.options,
            "messages": self.messages,
            "max_tokens": self.max_tokens,
            "temperature": 0.0 if greedy else self.temperature,
            "seed": candidate_seed(self.seed, index),
            "cache_salt": self.cache_salt,
        }


def candidate_seed(seed: int, index: int) -> int:
    """63 bits from (request seed, candidate index): reproducible, and never the same for two candidates."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{index}".encode()).digest()[:8]) >> 1


def make_plan(
    request: ChatRequest, identity: Identity, route: Route, probability: float, settings: RouteSettings
) -> Plan:
    """Combine route and request; InvalidRequest names the bound that a wish is beyond."""
    wish = request.rerank
    strategy = {"auto": settings.strategy, "off": "greedy", "best_of_n": "best_of_n"}[wish.mode]
    n = (wish.n or settings.n) if strategy == "best_of_n" else 1
    _bound("rerank.n", n, at_most=settings.max_n, route=route)
    if request.n > n:
        raise InvalidRequest(
            f"n={request.n} choices are more than the {n} candidates sampled on the route {route}; "
            'ask for more with {"rerank": {"mode": "best_of_n", "n": ...}}',
            param="n",
        )
    asked_tokens = request.max_completion_tokens or request.max_tokens or settings.max_tokens
    token_param = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
    _bound(token_param, asked_tokens, at_most=settings.max_tokens_limit, route=route)
    budget = wish.budget_ms or settings.budget_ms
    _bound("rerank.budget_ms", budget, at_most=settings.max_budget_ms, route=route)
    if budget < settings.min_budget_ms:
        raise InvalidRequest(
            f"rerank.budget_ms={budget} is below {settings.min_budget_ms}, the least that the route {route} can keep",
            param="rerank.budget_ms",
        )
    threshold = settings.accept_threshold if wish.accept_threshold is None else wish.accept_threshold
    if threshold < settings.accept_threshold:
        raise InvalidRequest(
            f"rerank.accept_threshold={threshold} is below {settings.accept_threshold}, the route {route}'s own; "
            "a request may only be stricter",
            param="rerank.accept_threshold",
        )
    return Plan(
        route=route,
        route_probability=probability,
        settings=settings,
        strategy="best_of_n" if strategy == "best_of_n" else "greedy",
        n=n,
        temperature=_temperature(request, settings, strategy),
        budget_ms=budget,
        accept_threshold=threshold,
        seed=secrets.randbits(63) if request.seed is None else request.seed,
        messages=request.policy_messages(),
        max_tokens=asked_tokens,
        options=request.sampling_options(),
        cache_salt=identity.cache_salt,
        locale=wish.locale,
        # Where several choices are to be returned, the lesser ones are wanted too.
        stopping=StoppingRule() if n == 1 or request.n > 1 else settings.stopping_rule(threshold),
    )


def _temperature(request: ChatRequest, settings: RouteSettings, strategy: str) -> float:
    wishes = (request.rerank.temperature, request.temperature)
    asked = next((wish for wish in wishes if wish is not None), None)
    if asked is not None:
        return asked
    return settings.temperature if strategy == "best_of_n" else 0.0


def _bound(name: str, value: int, *, at_most: int, route: str) -> None:
    if value > at_most:
        raise InvalidRequest(f"{name}={value} is above {at_most}, the limit of the route {route}", param=name)
