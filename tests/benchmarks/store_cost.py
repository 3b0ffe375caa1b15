"""What the history costs: writes made-up answers at a rate and counts the CPU time of it.

Run it by `python -m tests.benchmarks.store_cost`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path

from prometheus_client import CollectorRegistry

from routing.router import RouteDecision
from service.admission.permit import Permit
from service.background import Background
from service.identity import Identity
from service.request.candidate import Candidate
from service.request.deadline import Deadline
from service.request.outcome.outcome import Choice, Outcome
from service.request.plan import make_plan
from service.request.pool import Pool
from service.request.records import record_of
from service.request.schemas import ChatRequest
from service.request.work import Work
from service.reviews.escalation import Escalation
from service.settings import PolicySettings, RouteSettings, StoreSettings
from service.store.database import open_database
from service.store.history import History
from service.telemetry.metrics import Metrics

POLICY = PolicySettings(url="http://127.0.0.1:1", model="made-up")
POLICY = PolicySettings(url="http://127.0.0.1:1", model="made-up")
_TEXT = "the second charge of 49.90 on 12.03.2026 will be refunded to your card within 5 days we are sorry"
_PROMPT_WORDS, _REPLY_WORDS, _CANDIDATES = 60, 110, 8


async def measure(url: str, rate: float, seconds: float) -> dict[str, float]:
    """Share of a core at `rate` answers a second, eight candidates each, redacted and written to the store at `url`."""
    engine, metrics, chance = await open_database(url), Metrics(CollectorRegistry()), random.Random(0)
    history = History(engine, metrics, 10_000)
    background = Background(metrics)
    background.start("history", history.run)
    made = [_answer(chance, number) for number in range(200)]
    began, cpu = time.perf_counter(), time.process_time()
    for number in range(int(rate * seconds)):
        work, pool, outcome = made[number % len(made)]
        work.id = f"chatcmpl-{number}"
        review = Escalation(1.0, None, True)
        history.add(record_of(work, pool, outcome, review, "0", StoreSettings()))
        await asyncio.sleep(max(0.0, began + (number + 1) / rate - time.perf_counter()))
    elapsed, spent = time.perf_counter() - began, time.process_time() - cpu
    await history.flush()
    await background.stop()
    await engine.dispose()
    return {
        "rate": rate,
        "seconds": elapsed,
        "share_of_a_core": spent / elapsed,
        "ms_each": 1e3 * spent / (rate * seconds),
    }


def _answer(chance: random.Random, number: int) -> tuple[Work, Pool, Outcome]:
    def words(count: int) -> str:
        return " ".join(chance.choices(_TEXT.split(), k=count))

    asked = {"model": "winnow", "messages": [{"role": "user", "content": words(_PROMPT_WORDS)}], "seed": number}
    request, identity = ChatRequest.model_validate(asked), Identity("acme", "client")
    plan = make_plan(request, identity, RouteDecision("billing", True, 0.99), RouteSettings(), POLICY)
    pool = Pool(tuple(_candidate(index, words(_REPLY_WORDS)) for index in range(_CANDIDATES)), orm="winnow-orm@3")
    permit = Permit(_CANDIDATES, 0, release=lambda count: None, charge=lambda tokens: None)
    work = Work("", request, identity, plan, Deadline(1e4), 0.0, 0, permit, {"total": 1.0}, list(pool.candidates))
    return (
        work,
        pool,
        Outcome("fallback", "all_scored", (Choice(pool.candidates[0], "fallback", "fallback"),), pool.candidates),
    )


def _candidate(index: int, content: str) -> Candidate:
    return Candidate(index, content, finish_reason="stop", completion_tokens=_REPLY_WORDS, score=1.0, probability=0.04)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--url", help="a store that may be written to; a SQLite file of its own where not given")
    options.add_argument("--rate", type=float, default=50.0)
    options.add_argument("--seconds", type=float, default=20.0)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        where = given.url or f"sqlite:///{Path(folder) / 'winnow.db'}"
        print(json.dumps(asyncio.run(measure(where, given.rate, given.seconds))))
