"""Rates in one process, shared by two through Redis, and with the shared store gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from service.admission.rates import Rates
from service.errors import SetupError
from service.telemetry.metrics import Metrics

# So long that no window ends while a test runs.
LONG = 100_000


@pytest.fixture(params=["memory", "redis"])
async def rates(request: pytest.FixtureRequest, metrics: Metrics) -> AsyncIterator[Rates]:
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    # A busy machine may take longer than a gateway would wait.
    made = Rates(metrics, url, LONG, answer_seconds=20)
    yield made
    await made.close()


async def test_a_limit_holds_to_the_last_unit_and_for_one_tenant_alone(rates: Rates) -> None:
    taken = await asyncio.gather(*(rates.take("requests", "acme", 7, 1) for _ in range(40)))
    assert sum(done for done, _ in taken) == 7
    done, window = await rates.take("requests", "acme", 7, 1)
    assert (done, window.limit, window.remaining) == (False, 7, 0)
    # The seven count for this window and fade in the next, so a place is free within two.
    assert 0 < window.wait(1) <= 2 * LONG
    assert (await rates.take("requests", "other", 7, 1))[0]
    assert (await rates.take("tokens", "acme", 7, 7))[0], "tokens are another limit"


async def test_a_refused_cost_takes_nothing(rates: Rates) -> None:
    assert (await rates.take("tokens", "acme", 100, 60))[1].remaining == 40
    assert (await rates.take("tokens", "acme", 100, 41))[0] is False
    assert (await rates.take("tokens", "acme", 100, 40))[1].remaining == 0


async def test_a_charge_is_never_refused_and_can_be_given_back(rates: Rates) -> None:
    await rates.take("tokens", "acme", 100, 90)
    rates.charge("tokens", "acme", 100, 30)
    await rates.charged()
    assert (await rates.look("tokens", "acme", 100)).remaining == 0
    rates.charge("tokens", "acme", 100, -50)
    await rates.charged()
    # 90 + 30 - 50 of 100.
    assert (await rates.look("tokens", "acme", 100)).remaining == 30


async def test_a_window_passes(metrics: Metrics) -> None:
    rates = Rates(metrics, None, 1)
    while (await rates.take("requests", "acme", 2, 1))[0]:
        pass
    async with asyncio.timeout(20):
        while not (await rates.take("requests", "acme", 2, 1))[0]:
            await asyncio.sleep(0.1)


async def test_gateways_share_their_limits(redis_url: str, metrics: Metrics) -> None:
    # Valkey speaks the same protocol under a scheme of its own.
    addresses = (redis_url, redis_url.replace("redis:", "valkey:"))
    # A busy machine may take longer than a gateway would wait.
    one, two = (Rates(metrics, address, LONG, answer_seconds=20) for address in addresses)
    taken = await asyncio.gather(*(rates.take("requests", "acme", 5, 1) for rates in (one, two) for _ in range(10)))
    assert sum(done for done, _ in taken) == 5
    one.charge("requests", "acme", 5, -2)
    await one.charged()
    assert (await two.look("requests", "acme", 5)).remaining == 2
    await one.close()
    await two.close()


async def test_without_the_shared_store_each_gateway_counts_for_itself(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    rates = Rates(metrics, "redis://:hush@127.0.0.1:1/0", LONG)
    taken = [await rates.take("requests", "acme", 3, 1) for _ in range(5)]
    assert [done for done, _ in taken] == [True, True, True, False, False]
    assert metrics.registry.get_sample_value("winnow_shared_limits_failures_total") == 1, "it is left alone for a while"
    (record,) = [record for record in caplog.records if record.name == "winnow.admission"]
    assert "each gateway counts for itself" in record.getMessage()
    assert "hush" not in caplog.text
    await rates.close()


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://localhost:6379", "redis://", "redis://h:port/0"])
async def test_an_address_that_is_none_is_refused_at_once(url: str, metrics: Metrics) -> None:
    with pytest.raises(SetupError, match="limits_url"):
        Rates(metrics, url)
