"""What counts as a failure of an upstream, and what its calls see while its circuit is open."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from service.errors import (
    Failure,
    InvalidRequest,
    ModelMoved,
    PolicyOverloaded,
    PolicyUnavailable,
    ScorerLate,
    ScorerUnavailable,
)
from service.settings import UpstreamSettings
from service.telemetry.metrics import Metrics
from service.upstream.guard import Guard

SETTINGS = UpstreamSettings(failures=2, pause_seconds=5, stall_seconds=10, probe_seconds=1)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Setup:
    """A guard, its clock and its metrics."""

    def __init__(self) -> None:
        self.clock, self.registry = Clock(), CollectorRegistry()
        metrics = Metrics(self.registry)
        self.guard = Guard("policy:default", PolicyUnavailable, SETTINGS, metrics, self.clock)

    async def fail(self, error: Exception, seconds: float = 0.0) -> None:
        with pytest.raises(type(error)):
            async with self.guard.call():
                self.clock.now += seconds
                raise error

    def counted(self, kind: Failure) -> float | None:
        labels = {"upstream": "policy:default", "kind": kind}
        return self.registry.get_sample_value("winnow_upstream_errors_total", labels)

    def shown(self) -> float | None:
        return self.registry.get_sample_value("winnow_circuit_state", {"upstream": "policy:default"})


@pytest.fixture
def setup() -> Setup:
    return Setup()


@pytest.mark.parametrize("kind", ["unreachable", "timeout", "broke_off", "malformed", "misconfigured", "failed"])
async def test_failures_open_the_circuit_and_calls_fail_at_once(setup: Setup, kind: Failure) -> None:
    assert setup.shown() == 0
    for _ in range(2):
        await setup.fail(PolicyUnavailable("x", kind=kind, code="policy_unauthorized"))
    assert setup.counted(kind) == 2
    assert setup.shown() == 1
    setup.clock.now += 1.5
    with pytest.raises(PolicyUnavailable) as caught:
        async with setup.guard.call():
            raise AssertionError("not reached")
    assert (caught.value.kind, caught.value.retry_after) == ("circuit_open", 3.5)
    assert caught.value.code == "policy_unauthorized"
    assert str(caught.value) == "the policy has failed 2 times in a row; it is tried again in 4 s"
    assert setup.counted("circuit_open") == 1


@pytest.mark.parametrize(
    "error",
    [
        PolicyOverloaded("x", kind="overloaded"),
        ScorerUnavailable("x", kind="refused"),
        ModelMoved("x", kind="moved"),
        InvalidRequest("x"),
        ScorerLate("x", kind="timeout"),
        ValueError("x"),
    ],
)
async def test_an_upstream_that_works_is_not_left_alone(setup: Setup, error: Exception) -> None:
    for _ in range(5):
        await setup.fail(error)
    assert not setup.guard.circuit.open


async def test_lateness_after_a_long_silence_is_a_failure(setup: Setup) -> None:
    for _ in range(2):
        await setup.fail(ScorerLate("x", kind="timeout"), seconds=10.5)
    assert setup.guard.circuit.open


@pytest.mark.parametrize(("seconds", "heard", "fails"), [(9, False, False), (11, False, True), (11, True, False)])
async def test_a_cancelled_call_fails_if_nothing_was_heard_for_long(
    setup: Setup, seconds: float, heard: bool, fails: bool
) -> None:
    async def call() -> None:
        async with setup.guard.call() as call:
            setup.clock.now += seconds
            if heard:
                call.heard()
            await asyncio.sleep(30)

    for _ in range(2):
        task = asyncio.create_task(call())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert setup.guard.circuit.open is fails
    assert setup.counted("timeout") == (2 if fails else None)


async def test_one_trial_goes_through_and_the_others_wait_for_its_first_answer(setup: Setup) -> None:
    for _ in range(2):
        await setup.fail(PolicyUnavailable("x"))
    setup.clock.now += 6
    begun, answer, end = list[int](), asyncio.Event(), asyncio.Event()

    async def call(number: int) -> None:
        async with setup.guard.call() as call:
            begun.append(number)
            await answer.wait()
            call.heard()
            await end.wait()

    tasks = [asyncio.create_task(call(number)) for number in range(4)]
    await asyncio.sleep(0.02)
    assert begun == [0]
    answer.set()
    await asyncio.sleep(0.02)
    assert sorted(begun) == [0, 1, 2, 3]
    assert setup.shown() == 0
    end.set()
    await asyncio.gather(*tasks)
    await setup.fail(PolicyUnavailable("x"))
    assert not setup.guard.circuit.open


async def test_who_waits_for_a_trial_that_fails_fails_with_it(setup: Setup) -> None:
    for _ in range(2):
        await setup.fail(PolicyUnavailable("x"))
    setup.clock.now += 6
    broken = asyncio.Event()

    async def call() -> None:
        async with setup.guard.call():
            await broken.wait()
            raise PolicyUnavailable("x")

    tasks = [asyncio.create_task(call()) for _ in range(4)]
    await asyncio.sleep(0.02)
    broken.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [error.kind for error in errors if isinstance(error, PolicyUnavailable)] == ["failed"] + 3 * ["circuit_open"]


async def test_a_trial_that_is_cancelled_leaves_the_next_one_to_try(setup: Setup) -> None:
    for _ in range(2):
        await setup.fail(PolicyUnavailable("x"))
    setup.clock.now += 6

    async def hang() -> None:
        async with setup.guard.call():
            await asyncio.sleep(30)

    trial = asyncio.create_task(hang())
    await asyncio.sleep(0)
    trial.cancel()
    await asyncio.gather(trial, return_exceptions=True)
    async with setup.guard.call():
        pass
    assert not setup.guard.circuit.open


async def test_a_call_that_proves_nothing_closes_nothing(setup: Setup) -> None:
    await setup.fail(PolicyUnavailable("x"))
    async with setup.guard.call(proves=False):
        pass
    assert setup.guard.circuit.failures == 1
    assert setup.guard.heard_at == float("-inf")
    await setup.fail(PolicyUnavailable("x"))
    assert setup.guard.circuit.open
    setup.clock.now += 6
    async with setup.guard.call(proves=False):
        pass
    assert setup.guard.circuit.open
