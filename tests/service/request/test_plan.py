"""A request's wishes within its route's bounds."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from routing.router import RouteDecision
from service.errors import InvalidRequest
from service.identity import Identity
from service.request.plan import Plan, candidate_seed, make_plan
from service.request.schemas import ChatRequest
from service.settings import PolicySettings, RouteSettings

ACME = Identity("acme", "client")
POLICY = PolicySettings(url="http://127.0.0.1:1", model="small")


def plan(settings: RouteSettings | None = None, **fields: Any) -> Plan:
    request = ChatRequest.model_validate({"model": "winnow", "messages": [{"role": "user", "content": "x"}], **fields})
    return make_plan(request, ACME, RouteDecision("billing", True, 0.9), settings or RouteSettings(), POLICY)


def test_the_route_fills_what_the_request_leaves_open() -> None:
    made = plan()
    assert (made.strategy, made.n, made.temperature, made.max_tokens, made.budget_ms) == (
        "best_of_n",
        8,
        0.8,
        160,
        30_000,
    )


@pytest.mark.parametrize(
    ("fields", "temperature"),
    [
        ({"temperature": 0.3}, 0.3),
        ({"temperature": 0.3, "rerank": {"temperature": 1.0}}, 1.0),
        ({"rerank": {"temperature": 0.0}}, 0.0),
        ({"rerank": {"mode": "off"}}, 0.0),
    ],
)
def test_the_rerank_objects_temperature_overrides_the_top_level_one(fields: dict[str, Any], temperature: float) -> None:
    assert plan(**fields).temperature == temperature


def test_seeds_are_63_bits_of_sha256_and_differ_by_candidate() -> None:
    by_hand = int(hashlib.sha256(b"7:3").hexdigest()[:16], 16) >> 1
    assert candidate_seed(7, 3) == by_hand
    assert len({candidate_seed(7, i) for i in range(64)}) == 64
    assert plan(seed=7).body(3)["seed"] == by_hand


def test_without_a_seed_two_requests_differ() -> None:
    assert plan().seed != plan().seed


def test_a_greedy_body_keeps_everything_but_the_temperature() -> None:
    made = plan(top_p=0.9, stop=["\n"], seed=1)
    assert made.body(0, greedy=True) == made.body(0) | {"temperature": 0.0}
    assert made.body(0)["top_p"] == 0.9
    assert made.body(0)["cache_salt"] == ACME.cache_salt != Identity("other", "client").cache_salt


def test_the_developer_role_is_passed_on() -> None:
    assert plan(messages=[{"role": "developer", "content": "be brief"}]).messages == [
        {"role": "developer", "content": "be brief"}
    ]


def test_max_completion_tokens_wins_over_the_legacy_name() -> None:
    assert plan(max_tokens=10, max_completion_tokens=20).max_tokens == 20


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rerank": {"n": 17}}, "16"),
        ({"n": 9}, "8 candidates"),
        ({"n": 2, "rerank": {"mode": "off"}}, "1 candidates"),
        ({"rerank": {"budget_ms": 200_000}}, "120000"),
        ({"rerank": {"accept_threshold": 0.5}}, "0.6"),
    ],
)
def test_a_wish_beyond_its_bound_is_refused_with_the_bound(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        plan(**fields)


def test_a_stricter_threshold_is_taken() -> None:
    assert plan(rerank={"accept_threshold": 0.95}).accept_threshold == 0.95
