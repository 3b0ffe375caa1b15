"""What works: from traffic, from one probe for all who ask, and from none while a circuit is open."""

from __future__ import annotations

import asyncio

from service.errors import PolicyUnavailable
from service.settings import UpstreamSettings
from service.upstream.guard import Guard
from service.upstream.health import Health, Probe

SETTINGS = UpstreamSettings(failures=2, pause_seconds=5, idle_seconds=15)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Engine:
    """Answers as it is told, when it is told; counts its probes, which go through the guard as real ones do."""

    def __init__(self, guard: Guard | None = None) -> None:
        self.guard, self.up, self.probes, self.go = guard, True, 0, asyncio.Event()
        self.go.set()

    async def healthy(self) -> bool:
        self.probes += 1
        await self.go.wait()
        if self.guard is not None:
            try:
                async with self.guard.call():
                    if not self.up:
                        raise PolicyUnavailable("x")
            except PolicyUnavailable:
                return False
        return self.up


def health(clock: Clock) -> tuple[Health, Engine, Guard]:
    guard = Guard("policy:default", PolicyUnavailable, SETTINGS, None, clock)
    engine = Engine(guard)
    return Health({"policy:default": engine}, {"policy:default": guard}, None, frozenset), engine, guard


async def up(states: Health) -> bool:
    return (await states.facts()).upstreams["policy:default"]


async def test_thirty_who_ask_make_one_probe() -> None:
    engine = Engine()
    engine.go.clear()
    probe = Probe(engine.healthy)
    waiting = [asyncio.create_task(probe.answers()) for _ in range(30)]
    await asyncio.sleep(0.01)
    waiting[0].cancel()
    engine.go.set()
    assert await asyncio.gather(*waiting[1:]) == [True] * 29
    assert await probe.answers()
    assert engine.probes == 1


async def test_a_probes_outcome_holds_for_a_second() -> None:
    clock, engine = Clock(), Engine()
    probe = Probe(engine.healthy, clock)
    assert await probe.answers()
    engine.up = False
    clock.now += 0.9
    assert await probe.answers()
    clock.now += 0.2
    assert not await probe.answers()


async def test_traffic_tells_without_a_probe() -> None:
    clock = Clock()
    states, engine, guard = health(clock)
    async with guard.call():
        pass
    clock.now += 14
    assert await up(states)
    assert engine.probes == 0
    clock.now += 2
    assert await up(states)
    assert engine.probes == 1
    assert await up(states)
    assert engine.probes == 1, "the probe was traffic"


async def test_a_stream_that_goes_on_is_traffic() -> None:
    clock = Clock()
    states, engine, guard = health(clock)
    async with guard.call() as call:
        for _ in range(5):
            clock.now += 10
            call.heard()
            assert await up(states)
    assert engine.probes == 0


async def test_after_a_failure_it_is_probed() -> None:
    clock = Clock()
    states, engine, guard = health(clock)
    async with guard.call():
        pass
    try:
        async with guard.call():
            raise PolicyUnavailable("x")
    except PolicyUnavailable:
        pass
    assert await up(states)
    assert engine.probes == 1


async def test_an_open_circuit_is_down_without_a_probe_and_a_probe_is_its_trial() -> None:
    clock = Clock()
    states, engine, guard = health(clock)
    guard.circuit.fail()
    guard.circuit.fail()
    assert not await up(states)
    assert states.circuits() == {"policy:default": "open"}
    assert engine.probes == 0
    clock.now += 6
    assert await up(states)
    assert engine.probes == 1
    assert states.circuits() == {"policy:default": "closed"}


async def test_store_and_tasks_are_said() -> None:
    async def away() -> bool:
        return False

    facts = await Health({}, {}, away, lambda: frozenset({"webhook"})).facts()
    assert facts.store is False
    assert facts.tasks_down == {"webhook"}
    assert (await Health({}, {}, None, frozenset).facts()).store is None
