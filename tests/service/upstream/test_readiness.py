"""Which states of the upstreams leave a gateway able to answer, as a table."""

from __future__ import annotations

from typing import Any

import pytest

from service.settings import Settings, load_settings
from service.upstream.readiness import Conditions, assess

UP = {"scorer": True, "policy:default": True, "policy:other": True}
GREEDY = {"strategy": "greedy"}
MESSAGE = {"on_scorer_failure": "fallback_message"}
ERROR = {"on_scorer_failure": "error"}
SEND = {"on_review": "send", "on_fallback": "send"}


def settings(**routes: dict[str, Any]) -> Settings:
    other = {"other": {"url": "http://127.0.0.1:9", "model": "m"}}
    return load_settings(routes=routes, policies=other)


# routes, what is down, status, state of each route (billing, fraud, default)
TABLE: list[tuple[dict[str, Any], set[str], str, tuple[str, str, str]]] = [
    ({}, set(), "ready", ("ready", "ready", "ready")),
    ({"billing": MESSAGE, "fraud": MESSAGE}, {"scorer"}, "degraded", ("degraded", "degraded", "ready")),
    ({"billing": ERROR, "fraud": MESSAGE}, {"scorer"}, "degraded", ("down", "degraded", "ready")),
    ({"billing": ERROR, "fraud": ERROR}, {"scorer"}, "degraded", ("down", "down", "ready")),
    (
        {"billing": ERROR, "fraud": ERROR, "default": ERROR | {"strategy": "best_of_n"}},
        {"scorer"},
        "not ready",
        ("down", "down", "down"),
    ),
    ({}, {"policy:default"}, "not ready", ("down", "down", "down")),
    ({"default": {"policy": "other"}}, {"policy:default"}, "degraded", ("down", "down", "ready")),
    ({}, {"policy:other"}, "degraded", ("ready", "ready", "ready")),
    ({}, {"scorer", "policy:default"}, "not ready", ("down", "down", "down")),
    ({}, {"store"}, "degraded", ("degraded", "degraded", "ready")),
    ({"billing": SEND, "fraud": SEND}, {"store"}, "degraded", ("ready", "ready", "ready")),
    (
        {"billing": SEND | {"on_fallback": "message"}, "fraud": SEND},
        {"store"},
        "degraded",
        ("degraded", "ready", "ready"),
    ),
    ({}, {"webhook"}, "degraded", ("ready", "ready", "ready")),
]


@pytest.mark.parametrize(("routes", "down", "status", "states"), TABLE)
def test_a_gateway_is_ready_while_any_route_can_answer(
    routes: dict[str, Any], down: set[str], status: str, states: tuple[str, str, str]
) -> None:
    facts = Conditions(
        {name: name not in down for name in UP}, "store" not in down, frozenset(down - UP.keys() - {"store"})
    )
    readiness = assess(settings(**routes), facts)
    assert readiness.status == status
    assert readiness.ready is (status != "not ready")
    assert tuple(readiness.routes[name] for name in ("billing", "fraud", "default")) == states
    assert len(readiness.problems) == len(down)


def test_problems_are_named() -> None:
    facts = Conditions(UP | {"scorer": False}, False, frozenset({"webhook"}))
    assert assess(settings(), facts).problems == [
        "scorer does not answer",
        "the store does not answer",
        "the background task webhook is down",
    ]


def test_without_a_store_nothing_is_missing() -> None:
    assert assess(settings(), Conditions(UP, None)).status == "ready"
