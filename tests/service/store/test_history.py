"""What real requests through the gateway leave in the store, and what happens when the store does not keep up."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy import text

from service.background import Background
from service.store.database import open_database
from service.store.history import History
from service.store.rows import Record
from service.telemetry.metrics import Metrics


def record(number: int, **changed: Any) -> Record:
    """A row that fits, with one candidate."""
    response = {
        "id": f"chatcmpl-{number}",
        "at_ms": number,
        "tenant": "acme",
        "route": "billing",
        "decision": "review",
        "stop_reason": "all_scored",
        "sent": "held",
        "n": 1,
        "n_completed": 1,
        "n_scored": 1,
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "prompt": [{"role": "user", "content": f"question {number}"}],
        "parameters": {},
        "versions": {},
        "timings_ms": {},
        "redacted": [],
    }
    candidate = {"response_id": response["id"], "index": 0, "stopped": False, "completion_tokens": 5, "content": "ok"}
    return Record(response | changed, [candidate | {"tool_calls": None}])


async def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    engine = await open_database(url)
    async with engine.connect() as connection:
        found = [tuple(row) for row in await connection.execute(text(query))]
    await engine.dispose()
    return found


def rows_of_file(path: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(path) as connection:
        return connection.execute(query).fetchall()


async def until(condition: Any, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_reranked_request_is_kept_with_its_candidates_and_a_greedy_one_is_not(
    start_gateway: Any, script: Any, store_url: str
) -> None:
    async with start_gateway(profile="demo", store={"url": store_url}) as gateway:
        gateway.policy.answer = lambda body, i: script([f"reply {i}", " to +49 30 1234567"])
        asked = "I was charged twice on 4111 1111 1111 1111"
        body = (await gateway.ask(asked, user="u-7", seed=5)).json()
        await gateway.ask("hello")
    names = "id", "tenant", "user", "route", "decision", "winner", "score", "n_scored"
    columns = ", ".join(f'"{name}"' for name in names)
    (kept,) = await rows(store_url, f"select {columns}, prompt, redacted, parameters from responses")
    winner = body["rerank"]["winner"]
    decided = ("billing", body["rerank"]["decision"], winner["index"], winner["score"], 8)
    assert kept[:8] == (body["id"], "acme", "u-7", *decided)
    documents: list[Any] = [value if isinstance(value, list | dict) else json.loads(value) for value in kept[8:]]
    prompt, redacted, parameters = documents
    assert prompt[-1]["content"] == "I was charged twice on [card]"
    assert redacted == ["card", "phone"]
    assert (parameters["temperature"], parameters["seed"]) == (0.8, 5)
    query = 'select "index", content, finish_reason, completion_tokens from candidates order by 1'
    candidates = await rows(store_url, query)
    assert [index for index, *_ in candidates] == list(range(8))
    assert all(said.endswith(" to [phone]") and reason == "stop" for _, said, reason, _ in candidates)
    assert sum(tokens for *_, tokens in candidates) == body["usage"]["completion_tokens"]


async def test_texts_are_left_out_where_they_are_not_wanted(start_gateway: Any, store_url: str) -> None:
    async with start_gateway(profile="demo", store={"url": store_url, "prompts": False, "texts": False}) as gateway:
        await gateway.ask()
    assert await rows(store_url, "select count(*), count(prompt) from responses") == [(1, 0)]
    assert await rows(store_url, "select count(*), count(content) from candidates") == [(8, 0)]


async def test_two_gateways_share_a_store(start_gateway: Any, store_url: str) -> None:
    async with start_gateway(store={"url": store_url}) as one, start_gateway(store={"url": store_url}) as other:
        answers = await asyncio.gather(*(gateway.ask() for gateway in (one, other) * 5))
    kept = await rows(store_url, "select id from responses")
    assert {row[0] for row in kept} == {answer.json()["id"] for answer in answers}
    assert await rows(store_url, "select count(*) from candidates") == [(80,)]


async def test_what_does_not_fit_is_dropped_and_counted_and_nobody_waits(tmp_path: Path) -> None:
    engine = await open_database(f"sqlite:///{tmp_path / 'a.db'}")
    metrics = Metrics(CollectorRegistry())
    history = History(engine, metrics, limit=3)
    began = time.perf_counter()
    for number in range(10):
        history.add(record(number))
    assert time.perf_counter() - began < 0.1
    assert metrics.history.dropped._value.get() == 7
    background = Background(metrics)
    background.start("history", history.run)
    await history.flush()
    await background.stop()
    await engine.dispose()
    kept = rows_of_file(tmp_path / "a.db", "select id from responses order by at_ms")
    assert kept == [(f"chatcmpl-{n}",) for n in range(3)]


async def test_one_record_that_the_store_refuses_takes_no_other_with_it(store_url: str) -> None:
    engine = await open_database(store_url)
    metrics = Metrics(CollectorRegistry())
    history = History(engine, metrics, limit=10)
    background = Background(metrics)
    background.start("history", history.run)
    for each in (record(1), record(1), record(2, prompt=[{"content": "\x00 \ud83d"}])):
        history.add(each)
    await history.flush()
    await background.stop()
    await engine.dispose()
    assert await rows(store_url, "select count(*) from responses") == [(2,)]
    assert metrics.history.dropped._value.get() == 1


async def test_a_store_that_is_locked_is_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    engine = await open_database(f"sqlite:///{path}", busy_ms=50)
    metrics = Metrics(CollectorRegistry())
    history = History(engine, metrics, limit=10, retry_seconds=0.1)
    locked = sqlite3.connect(path, isolation_level=None)
    locked.execute("begin immediate")
    background = Background(metrics)
    background.start("history", history.run)
    history.add(record(1))
    await until(lambda: metrics.history.failures._value.get() >= 2)
    locked.execute("rollback")
    locked.close()
    await history.flush()
    await background.stop()
    await engine.dispose()
    assert rows_of_file(path, "select id from responses") == [("chatcmpl-1",)]


KILLED = """
import asyncio, sys
from prometheus_client import CollectorRegistry
from service.background import Background
from service.telemetry.metrics import Metrics
from service.store.database import open_database
from service.store.history import History
sys.path.insert(0, sys.argv[2])
from test_history import record
async def main():
    metrics = Metrics(CollectorRegistry())
    history = History(await open_database(sys.argv[1]), metrics, 100_000)
    background = Background(metrics)
    background.start("history", history.run)
    for number in range(100_000):
        history.add(record(number))
        print(number, flush=True)
        await asyncio.sleep(0.002)
asyncio.run(main())
"""


def test_a_store_whose_writer_was_killed_is_readable_and_lacks_the_last_second_at_most(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    command = [sys.executable, "-c", KILLED, f"sqlite:///{path}", str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        written: list[tuple[float, int]] = []
        while len(written) < 1_500 or not rows_of_file(path, "select count(*) from responses where at_ms > 200")[0][0]:
            written.append((time.monotonic(), int(process.stdout.readline())))
        process.send_signal(signal.SIGKILL)
    (count, last) = rows_of_file(path, "select count(*), max(at_ms) from responses")[0]
    assert rows_of_file(path, "pragma integrity_check") == [("ok",)]
    assert rows_of_file(path, "select count(*) from candidates") == [(count,)]
    assert count == last + 1
    # Half a second is gathered while half a second is written; the rest is for a machine that does other work too.
    assert all(at > written[-1][0] - 5 for at, number in written if number > last)


async def test_the_schema_is_what_the_tables_say(store_url: str) -> None:
    """The migrations and the tables that the code uses are one and the same."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from service.store.tables import metadata

    engine = await open_database(store_url)
    async with engine.connect() as connection:
        changes = await connection.run_sync(lambda sync: compare_metadata(MigrationContext.configure(sync), metadata))
    await engine.dispose()
    assert changes == []


async def test_a_sqlite_store_has_readers_beside_its_writer(tmp_path: Path) -> None:
    engine = await open_database(f"sqlite:///{tmp_path / 'a.db'}")
    async with engine.connect() as connection:
        assert (await connection.execute(text("pragma journal_mode"))).scalar() == "wal"
    await engine.dispose()
