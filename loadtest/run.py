"""The open loop: each request leaves at its scheduled time, whether or not the earlier ones were answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from loadtest.client import RequestOutcome, Target, ask, check
from loadtest.workload import Arrival

# More would run into the usual limit of 1,024 open files and be counted as the server's errors. A request
# that waits for one of these connections is measured from its scheduled time all the same.
_MAX_CONNECTIONS = 900
# Shorter than uvicorn's 5 s: a connection closed by the server just as it is reused would be an error.
_KEEP_ALIVE_S = 3.0


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Outcomes in the order of the schedule, and the seconds from start to the last answer."""

    outcomes: list[RequestOutcome]
    elapsed_s: float
    interrupted: bool


async def run(
    target: Target,
    arrivals: Sequence[Arrival],
    *,
    timeout_s: float,
    stop: asyncio.Event,
    on_done: Callable[[], None] = lambda: None,
) -> LoadResult:
    """Send every arrival at its time and wait for the answers.

    Ends at the last answer, `timeout_s` after the last arrival, or as soon as `stop` is set: then what is
    under way is cancelled and counted so. Raises BadTarget when the target does not answer at all.
    """
    connector = aiohttp.TCPConnector(limit=_MAX_CONNECTIONS, keepalive_timeout=_KEEP_ALIVE_S)
    unlimited = aiohttp.ClientTimeout(total=None)
    headers = target.headers()
    async with aiohttp.ClientSession(connector=connector, timeout=unlimited, headers=headers) as session:
        await check(session, target)
        clock = asyncio.get_running_loop().time
        start = clock()
        tasks: list[asyncio.Task[RequestOutcome]] = []
        for arrival in arrivals:
            if await _stopped_before(stop, start + arrival.at_s):
                break
            task = asyncio.create_task(ask(session, target, arrival, start + arrival.at_s, timeout_s))
            task.add_done_callback(lambda _: on_done())
            tasks.append(task)
        await _finish(tasks, stop)
        elapsed_s = clock() - start
    return LoadResult([_outcome(*pair) for pair in zip(arrivals, tasks, strict=False)], elapsed_s, stop.is_set())


async def _stopped_before(stop: asyncio.Event, when: float) -> bool:
    """Wait until the loop's clock reads `when`; True when the run was stopped first."""
    try:
        async with asyncio.timeout_at(when):
            return await stop.wait()
    except TimeoutError:
        return False


async def _finish(tasks: list[asyncio.Task[RequestOutcome]], stop: asyncio.Event) -> None:
    """Wait for all answers; when the run is stopped, cancel what is left and wait for that."""
    stopper = asyncio.create_task(stop.wait())
    answers = asyncio.gather(*tasks, return_exceptions=True)
    either: set[asyncio.Future[Any]] = {stopper, answers}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    for task in (stopper, *tasks):
        task.cancel()
    await asyncio.gather(stopper, answers, return_exceptions=True)


def _outcome(arrival: Arrival, task: asyncio.Task[RequestOutcome]) -> RequestOutcome:
    return RequestOutcome(arrival.kind, 0.0, 0.0, "cancelled") if task.cancelled() else task.result()
