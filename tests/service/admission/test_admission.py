"""What may be at work at once, and what a request is charged."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from service.admission.admission import Admission
from service.admission.permit import Permit
from service.admission.rates import Rates
from service.errors import InvalidRequest, Overloaded, RateLimited
from service.identity import Identity
from service.settings import TenantLimits
from service.telemetry.metrics import Metrics

ACME, OTHER = Identity("acme", "client"), Identity("other", "client")


def admission_of(metrics: Metrics, bound: int = 64, **limits: int) -> Admission:
    own = {"requests_per_minute": 100, "concurrent_candidates": 64, "tokens_per_minute": 1_000_000} | limits
    return Admission(bound, lambda tenant: TenantLimits(**own), Rates(metrics, None, 100_000), metrics)


async def reserve(admission: Admission, n: int, identity: Identity = ACME, **fields: Any) -> Permit:
    return await admission.reserve(identity, "billing", **({"n": n, "max_tokens": 10} | fields))


@pytest.mark.parametrize("weight", [1, 2])
async def test_sixty_at_once_never_pass_a_limit_of_four(metrics: Metrics, weight: int) -> None:
    admission, most = admission_of(metrics, bound=4), 0

    async def one() -> bool:
        nonlocal most
        try:
            permit = await reserve(admission, weight)
        except Overloaded:
            return False
        with permit:
            most = max(most, admission.inflight)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return True

    passed = await asyncio.gather(*(one() for _ in range(60)))
    assert most == 4
    assert sum(passed) >= 4 // weight
    assert admission.inflight == 0
    assert metrics.registry.get_sample_value("winnow_refused_requests_total", {"limit": "gateway"}) == 60 - sum(passed)


async def test_a_permit_weighs_its_candidates_and_is_given_back_once_whatever_happens(metrics: Metrics) -> None:
    admission = admission_of(metrics, bound=17)
    with pytest.raises(ValueError, match="x"), await reserve(admission, 16) as permit:
        assert permit.n == admission.inflight == 16
        with await reserve(admission, 1):
            with pytest.raises(Overloaded):
                admission.check()
            with pytest.raises(Overloaded) as refused:
                await reserve(admission, 1)
            assert refused.value.retry_after
        admission.check()
        raise ValueError("x")
    permit.release()
    assert admission.inflight == 0


async def test_a_tenant_cannot_take_what_is_others(metrics: Metrics) -> None:
    admission = admission_of(metrics, bound=16, concurrent_candidates=8)
    with await reserve(admission, 8):
        with pytest.raises(RateLimited, match="8 candidates at once") as refused:
            await reserve(admission, 1)
        assert refused.value.retry_after
        with await reserve(admission, 8, OTHER):
            assert admission.inflight == 16


@pytest.mark.parametrize("limits", [{"bound": 10}, {"concurrent_candidates": 10}, {"tokens_per_minute": 109}])
async def test_candidates_shrink_before_anything_is_refused(metrics: Metrics, limits: dict[str, int]) -> None:
    admission = admission_of(metrics, **limits)
    with await reserve(admission, 8, min_n=2) as first:
        # 2 of 10 places are left, or 29 of 109 tokens at 10 each.
        with await reserve(admission, 8, min_n=2) as second:
            assert (first.n, second.n) == (8, 2)
            assert admission.inflight == 10
            with pytest.raises((RateLimited, Overloaded)):
                await reserve(admission, 8, min_n=2)
        assert admission.inflight == 8
    assert metrics.registry.get_sample_value("winnow_shrunk_requests_total", {"route": "billing"}) == 1


async def test_tokens_are_reserved_and_settled(metrics: Metrics) -> None:
    admission = admission_of(metrics, tokens_per_minute=100)
    with await reserve(admission, 4, max_tokens=20) as permit:
        assert permit.headers["x-ratelimit-limit-tokens"] == "100"
        assert permit.headers["x-ratelimit-remaining-tokens"] == "20"
        with pytest.raises(RateLimited, match="100 tokens a minute") as refused:
            await reserve(admission, 2, max_tokens=11)
        assert refused.value.headers["x-ratelimit-remaining-tokens"] == "20"
        assert 0 < float(refused.value.retry_after or 0) <= 200_000
        assert admission.inflight == 4, "what is refused holds nothing"
        permit.settle(12)
        permit.settle(15)
    await admission.settled()
    assert (await admission.admit(ACME))["x-ratelimit-remaining-tokens"] == "85"
    # More than was reserved is charged too, as a greedy fallback is.
    with await reserve(admission, 1, max_tokens=5) as permit:
        permit.settle(25)
    # And what is not settled stays as it was reserved.
    await admission.settled()
    (await reserve(admission, 1, max_tokens=50)).release()
    assert (await admission.admit(ACME))["x-ratelimit-remaining-tokens"] == "10"
    assert (await admission.admit(OTHER))["x-ratelimit-remaining-tokens"] == "100"


async def test_a_request_counts_once_and_tells_what_is_left(metrics: Metrics) -> None:
    admission = admission_of(metrics, requests_per_minute=3)
    for left in ("2", "1", "0"):
        headers = await admission.admit(ACME)
        assert headers["x-ratelimit-limit-requests"] == "3"
        assert headers["x-ratelimit-remaining-requests"] == left
        assert 0 < float(headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 200_000
        with await reserve(admission, 8):
            pass
    with pytest.raises(RateLimited, match="3 requests a minute") as refused:
        await admission.admit(ACME)
    assert refused.value.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.value.headers["x-ratelimit-limit-tokens"] == "1000000"
    assert (await admission.admit(OTHER))["x-ratelimit-remaining-requests"] == "2"


@pytest.mark.parametrize(
    ("limits", "param"),
    [({"bound": 7}, "rerank.n"), ({"concurrent_candidates": 7}, "rerank.n"), ({"tokens_per_minute": 79}, "max_tokens")],
)
async def test_what_no_waiting_helps_is_the_clients_error(metrics: Metrics, limits: dict[str, int], param: str) -> None:
    admission = admission_of(metrics, **limits)
    with pytest.raises(InvalidRequest) as refused:
        await reserve(admission, 8)
    assert (refused.value.param, refused.value.code) == (param, "request_too_large")
    with await reserve(admission, 8, min_n=7) as permit:
        assert permit.n == 7


LIMITED: list[tuple[dict[str, Any], int, str]] = [
    ({"requests_per_minute": 1}, 429, "rate_limit_exceeded"),
    ({"concurrent_candidates": 8}, 429, "rate_limit_exceeded"),
    ({"tokens_per_minute": 1_280}, 429, "rate_limit_exceeded"),
    ({"max_inflight_candidates": 8}, 503, "overloaded"),
    ({"tenants": {"acme": {"requests_per_minute": 1}}}, 429, "rate_limit_exceeded"),
    ({"tenants": {"acme": {"concurrent_candidates": 8}}}, 429, "rate_limit_exceeded"),
    ({"tenants": {"acme": {"tokens_per_minute": 1_280}}}, 429, "rate_limit_exceeded"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("limits", "status", "code"), LIMITED, ids=[str(case[0]) for case in LIMITED])
async def test_each_limit_over_http(
    start_gateway: Any, script: Any, limits: dict[str, Any], status: int, code: str, stream: bool
) -> None:
    async with start_gateway(routes={"default": {"max_tokens": 160}}, **limits) as gateway:
        gateway.policy.answer = lambda body, i: script(["a", "b"], pause=0.5)
        first = asyncio.create_task(gateway.ask(stream=stream))
        while not gateway.policy.bodies:
            await asyncio.sleep(0.01)
        refused = await gateway.ask(stream=stream)
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
        assert 1 <= int(refused.headers["retry-after"]) <= math.ceil(2 * 60)
        answered = await first
        assert answered.status_code == 200
        for response in (refused, answered):
            for kind in ("requests", "tokens"):
                for part in ("limit", "remaining", "reset"):
                    assert f"x-ratelimit-{part}-{kind}" in response.headers


async def test_sixty_requests_at_once_over_http(start_gateway: Any, script: Any) -> None:
    async with start_gateway(max_inflight_candidates=32) as gateway:
        gateway.policy.answer = lambda body, i: script(["late"], pause=2)
        answers = await asyncio.gather(*(gateway.ask() for _ in range(60)))
        statuses = [answer.status_code for answer in answers]
        assert (statuses.count(200), statuses.count(503)) == (4, 56)
        assert len(gateway.policy.bodies) == 32
        assert gateway.registry.get_sample_value("winnow_inflight_candidates") == 0


async def test_an_error_tells_the_limits_too(gateway: Any) -> None:
    refused = await gateway.ask(temperature=9)
    assert refused.status_code == 400
    assert refused.headers["x-ratelimit-remaining-requests"] == "599"
    assert refused.headers["x-ratelimit-limit-tokens"] == "1000000"


async def test_fewer_candidates_do_not_calibrate(start_gateway: Any, script: Any) -> None:
    limits = {"concurrent_candidates": 12, "routes": {"billing": {"shrink_to": 2}}}
    async with start_gateway(**limits) as gateway:
        gateway.policy.answer = lambda body, i: script(["reply"], pause=0.5)
        first = asyncio.create_task(gateway.ask())
        while not gateway.policy.bodies:
            await asyncio.sleep(0.01)
        second = (await gateway.ask()).json()["rerank"]
        assert second["n_requested"] == 4, "of twelve places eight are taken"
        assert (second["decision"], second["degraded"]) == ("review", "calibration_mismatch")
        assert (await first).json()["rerank"]["n_requested"] == 8


async def test_what_was_sampled_is_charged(start_gateway: Any, script: Any) -> None:
    async with start_gateway(tokens_per_minute=10_000) as gateway:
        gateway.policy.answer = lambda body, i: script(["one", "two", "three"])
        answer = await gateway.ask()
        # 8 * 160 were reserved.
        assert answer.headers["x-ratelimit-remaining-tokens"] == "8720"
        # 8 * 3 were sampled; a greedy one of 512 is reserved after them.
        assert (await gateway.ask("hello")).headers["x-ratelimit-remaining-tokens"] == str(10_000 - 24 - 512)
        async with gateway.http.stream(
            "POST",
            f"{gateway.url}/v1/chat/completions",
            headers={"Authorization": f"Bearer {gateway.key}"},
            json={"model": "winnow", "stream": True, "messages": [{"role": "user", "content": "hello"}]},
        ) as streamed:
            assert streamed.headers["x-ratelimit-remaining-tokens"] == str(10_000 - 27 - 512)
            await streamed.aread()


async def test_a_client_that_leaves_gives_its_candidates_back(gateway: Any, script: Any) -> None:
    gateway.policy.answer = lambda body, i: script(["a"] * 50, pause=0.1)
    for stream in (False, True):
        task = asyncio.create_task(gateway.ask(stream=stream))
        await _until_held(gateway, 8)
        task.cancel()
        await _until_held(gateway, 0)


async def _until_held(gateway: Any, candidates: int) -> None:
    async with asyncio.timeout(20):
        while gateway.registry.get_sample_value("winnow_inflight_candidates") != candidates:
            await asyncio.sleep(0.02)
