"""What is deleted goes with its candidates, and nothing else goes; what is exported is all of a day."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Table, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner

from service.background import Background
from service.store.cli import store_app
from service.store.database import open_database
from service.store.history import History
from service.store.privacy.retention import FORGOTTEN, WITHOUT_USERS, follow_forgotten, forget_user, prune_settled
from service.store.privacy.vault import Vault
from service.store.rows import Record
from service.store.tables import audits, candidates, deliveries, feedback, forgotten, metadata, responses
from service.telemetry.metrics import Metrics

DAY_MS = 86_400_000


def answer(name: str, at_ms: int, tenant: str = "acme", user: str | None = None) -> dict[str, Any]:
    counts = dict.fromkeys(("n", "n_completed", "n_scored", "prompt_tokens", "completion_tokens"), 2)
    told = {"route": "billing", "decision": "accept", "stop_reason": "all_scored", "sent": "winner"}
    json_columns = {"prompt": [{"role": "user", "content": "é"}], "parameters": {"seed": 1}, "versions": {}}
    made = {"id": name, "at_ms": at_ms, "tenant": tenant, "user": user, "score": 1.5, "timings_ms": {}, "redacted": []}
    return made | counts | told | json_columns


async def fill(url: str, rows: list[dict[str, Any]]) -> None:
    engine = await open_database(url)
    both = [
        {"response_id": row["id"], "index": index, "stopped": False, "completion_tokens": 3, "content": f"{index}"}
        for row in rows
        for index in (1, 0)
    ]
    async with engine.begin() as connection:
        await connection.execute(insert(responses), rows)
        await connection.execute(insert(candidates), both)
    await engine.dispose()


async def left(url: str) -> list[str]:
    engine: AsyncEngine = await open_database(url)
    async with engine.connect() as connection:
        names = [row[0] for row in await connection.execute(text("select id from responses order by id"))]
        orphans = "select 1 from candidates where response_id not in (select id from responses)"
        assert (await connection.execute(text(orphans))).all() == []
    await engine.dispose()
    return names


def winnow_store(*arguments: str) -> Any:
    done = CliRunner().invoke(store_app, list(arguments))
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_user_of_one_tenant_is_forgotten(store_url: str) -> None:
    rows = [
        answer("a", 1, user="u"),
        answer("b", 2, user="u", tenant="other"),
        answer("c", 3, user="v"),
        answer("d", 4),
    ]
    asyncio.run(fill(store_url, rows))
    assert winnow_store("forget", "--tenant", "acme", "--user", "u", "--url", store_url) == {"deleted": 1}
    assert asyncio.run(left(store_url)) == ["b", "c", "d"]


def test_what_is_old_is_forgotten(store_url: str) -> None:
    now = int(time.time() * 1000)
    rows = [answer("old", now - 3 * DAY_MS), answer("new", now - DAY_MS)]
    asyncio.run(fill(store_url, rows))
    assert winnow_store("prune", "--days", "2", "--url", store_url) == {"deleted": 1}
    assert asyncio.run(left(store_url)) == ["new"]


async def test_the_gateway_forgets_by_itself(start_gateway: Any, store_url: str) -> None:
    now = int(time.time() * 1000)
    await fill(store_url, [answer("old", now - 3 * DAY_MS), answer("new", now)])
    async with start_gateway(store={"url": store_url, "days": 1}), asyncio.timeout(10):
        while await left(store_url) != ["new"]:
            await asyncio.sleep(0.05)


def test_a_day_is_exported_whole(store_url: str, tmp_path: Path) -> None:
    day = datetime.date(2026, 11, 20)
    begins = int(datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC).timestamp() * 1000)
    rows = [answer(f"{n:04}", begins + n) for n in range(1_200)]
    others = [answer("before", begins - 1), answer("after", begins + DAY_MS)]
    asyncio.run(fill(store_url, rows + others))
    told = winnow_store("export", str(tmp_path / "out"), "--day", day.isoformat(), "--url", store_url)
    assert told == {"day": "2026-11-20", "answers": 1_200}
    (file,) = (tmp_path / "out").iterdir()
    assert file.name == "responses-2026-11-20.parquet"
    found = pq.read_table(file).to_pylist()
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert found[7]["score"] == 1.5
    assert json.loads(found[7]["prompt"]) == [{"role": "user", "content": "é"}]
    assert [candidate["content"] for candidate in found[7]["candidates"]] == ["0", "1"]


def test_a_store_that_is_not_kept_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_STORE__URL", "none")
    monkeypatch.setenv("WINNOW_PROFILE", "demo")
    done = CliRunner().invoke(store_app, ["prune", "--days", "1"])
    assert done.exit_code == 2
    assert "keep no store" in done.output


def test_every_table_is_forgotten_or_holds_nothing_of_users() -> None:
    assert FORGOTTEN.isdisjoint(WITHOUT_USERS)
    assert FORGOTTEN | WITHOUT_USERS.keys() == metadata.tables.keys()


def _filled(table: Table, response_id: str, user: str) -> dict[str, Any]:
    """A row with a value in each column; every free text has the user's name in it."""
    row: dict[str, Any] = {}
    for column in table.c:
        kind = type(column.type).__name__
        row[column.name] = {"Text": f"said by {user}", "JSON": [f"said by {user}"], "LargeBinary": user.encode()}.get(
            kind,
            {"Float": 0.5, "Boolean": True, "String": f"x-{user}"[: getattr(column.type, "length", 0) or 0]}.get(
                kind, 1
            ),
        )
    own = {"id": f"{table.name}-{user}", "response_id": response_id, "item_id": f"audit_items-{user}", "audit_id": "a"}
    names = own | {"tenant": "acme", "user": user, "at_ms": int(time.time() * 1000)}
    return row | {name: value for name, value in names.items() if name in table.c}


async def test_nothing_of_a_user_is_left_in_any_table_or_file(tmp_path: Path, store_url: str) -> None:
    engine = await open_database(store_url)
    users = {"gone": "gone-user-7", "stays": "other-user-8"}
    async with engine.begin() as connection:
        await connection.execute(insert(audits), [_filled(audits, "", "") | {"id": "a", "strata": {}, "left_out": {}}])
        for response_id, user in users.items():
            await connection.execute(insert(responses), [_filled(responses, "", user) | {"id": response_id}])
            for table in metadata.sorted_tables:
                if table.name in FORGOTTEN - {"responses"}:
                    await connection.execute(insert(table), [_filled(table, response_id, user)])
        # Of a greedy answer, which has no row.
        greedy = _filled(feedback, "chatcmpl-greedy", users["gone"]) | {"id": "feedback-greedy"}
        await connection.execute(insert(feedback), [greedy])
    assert await forget_user(engine, "acme", users["gone"]) == 1
    async with engine.connect() as connection:
        for name in FORGOTTEN:
            left = (await connection.execute(select(metadata.tables[name]))).mappings().all()
            assert len(left) == 1, name
            assert users["gone"] not in str(left)
            assert users["stays"] in str(left), name
    await engine.dispose()
    for file in tmp_path.glob("winnow.db*"):
        assert users["gone"].encode() not in file.read_bytes(), file.name


async def test_a_user_whose_name_is_too_long_or_no_text_is_found_again(store_url: str) -> None:
    engine = await open_database(store_url)
    names = ["n" * 300, "n" * 299 + "m", "zero\x00", "zero\ufffd", "half \ud83d"]
    metrics = Metrics(CollectorRegistry())
    history, background = History(engine, metrics, 10), Background(metrics)
    background.start("history", history.run)
    for number, name in enumerate(names):
        row = answer(f"r{number}", 1, user=name) | {"locale": "x" * 40, "degraded": "d" * 99, "n": 2**40}
        history.add(Record(row, []))
    await history.flush()
    await background.stop()
    assert metrics.history.dropped._value.get() == 0
    for name in names:
        assert await forget_user(engine, "acme", name) == 1
    await engine.dispose()


async def test_what_has_served_its_purpose_is_pruned(store_url: str) -> None:
    engine, now = await open_database(store_url), int(time.time() * 1000)
    events: list[dict[str, Any]] = [
        {"id": name, "at_ms": at, "body": {}, "tries": 1, "next_at_ms": due}
        for name, at, due in (("old", now - 8 * DAY_MS, None), ("new", now, None), ("waiting", now - 8 * DAY_MS, now))
    ]
    async with engine.begin() as connection:
        await connection.execute(insert(deliveries), events)
    await forget_user(engine, "acme", "u")
    async with engine.begin() as connection:
        await connection.execute(update(forgotten).values(at_ms=now - 8 * DAY_MS))
    await prune_settled(engine, Vault())
    async with engine.connect() as connection:
        assert sorted((await connection.execute(select(deliveries.c.id))).scalars()) == ["new", "waiting"]
        assert (await connection.execute(select(forgotten))).all() == []
    await engine.dispose()


async def test_a_gateway_forgets_what_another_process_was_told_to(start_gateway: Any, store_url: str) -> None:
    async with start_gateway(profile="demo", store={"url": store_url}) as gateway:
        headers = {"Authorization": f"Bearer {gateway.key}"}
        ids = [(await gateway.ask(text, user="u-7")).json()["id"] for text in ("I was charged twice", "hello")]
        for response_id in ids:
            body = {"response_id": response_id, "thumb": "up", "comment": "mine"}
            told = await gateway.http.post(f"{gateway.url}/v1/feedback", json=body, headers=headers)
            assert told.status_code == 201
        engine = await open_database(store_url)
        await forget_user(engine, "acme", "u-7")
        async with engine.connect() as connection:
            assert (await connection.execute(select(feedback))).all() == []
        await engine.dispose()
        async with asyncio.timeout(20):
            for response_id in ids:
                url = f"{gateway.url}/v1/rerank/{response_id}"
                while (await gateway.http.get(url, headers=headers)).status_code != 404:
                    await asyncio.sleep(0.1)


async def test_what_was_under_way_is_swept(store_url: str) -> None:
    engine, now = await open_database(store_url), int(time.time() * 1000)
    await forget_user(engine, "acme", "u")
    await fill(
        store_url,
        [answer("late", now - 1_000, user="u"), answer("after", now + 60_000, user="u"), answer("v", now, user="v")],
    )
    seen: list[tuple[str, str]] = []
    loop = asyncio.create_task(follow_forgotten(engine, lambda tenant, digest: seen.append((tenant, digest)), 0.05))
    async with asyncio.timeout(10), engine.connect() as connection:
        while sorted((await connection.execute(select(responses.c.id))).scalars()) != ["after", "v"]:
            await connection.rollback()
            await asyncio.sleep(0.05)
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    # echo -n u | sha256sum
    assert seen[0] == ("acme", "0bfe935e70c321c7ca3afc75ce0d0ca2f98b5422e008bb31c00c6d7f1f1c0ad6")
    await engine.dispose()
