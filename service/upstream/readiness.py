"""What a gateway can answer, given what works: a pure function of settings and states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from service.settings import RouteSettings, Settings

RouteState = Literal["ready", "degraded", "down"]


@dataclass(frozen=True)
class Conditions:
    """What works now. `upstreams` has `scorer` and `policy:NAME`; `store` is None if nothing is kept."""

    upstreams: Mapping[str, bool]
    store: bool | None = None
    tasks_down: frozenset[str] = frozenset()


class Readiness(NamedTuple):
    """Whether requests should come here: yes, as long as any route can answer as configured."""

    status: Literal["ready", "degraded", "not ready"]
    routes: dict[str, RouteState]
    problems: list[str]

    @property
    def ready(self) -> bool:
        """Whether a load balancer should send requests."""
        return self.status != "not ready"


def assess(settings: Settings, facts: Conditions) -> Readiness:
    """The state of each route, and what is wrong in sentences."""
    problems = [f"{name} does not answer" for name, up in facts.upstreams.items() if not up]
    problems += ["the store does not answer"] if facts.store is False else []
    problems += [f"the background task {name} is down" for name in sorted(facts.tasks_down)]
    routes = {name: _state(route, facts) for name, route in settings.routes.items()}
    if all(state == "down" for state in routes.values()):
        return Readiness("not ready", routes, problems)
    return Readiness("degraded" if problems else "ready", routes, problems)


def _state(route: RouteSettings, facts: Conditions) -> RouteState:
    if not facts.upstreams[f"policy:{route.policy}"]:
        return "down"
    if route.strategy == "greedy":
        return "ready"
    if not facts.upstreams["scorer"]:
        return "down" if route.on_scorer_failure == "error" else "degraded"
    promises = route.on_review == "hold_message" or route.on_fallback == "message"
    return "degraded" if facts.store is False and promises else "ready"
