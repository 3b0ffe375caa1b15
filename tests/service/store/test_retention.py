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
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner

from service.store.cli import store_app
from service.store.database import open_database
from service.store.tables import candidates, responses

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
        others = {row[0] for row in await connection.execute(text("select response_id from candidates"))}
    await engine.dispose()
    assert others == set(names)
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
    done = CliRunner().invoke(store_app, ["prune", "--days", "1"])
    assert done.exit_code == 2
    assert "keep no store" in done.output
