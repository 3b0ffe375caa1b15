"""A store that fails, in every way it can: the log says so, and says nothing of prompts, users or keys."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from sqlalchemy import text

from service.store.database import open_database

PROMPT, USER, REPLY, COMMENT = "charged-private-7", "user-private-7", "reply-private-7", "comment-private-7"


async def execute(url: str, *statements: str) -> None:
    engine = await open_database(url)
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


async def test_an_insert_that_fails_tells_the_log_nothing_of_anybody(
    start_gateway: Any, script: Any, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "winnow")
    async with start_gateway(profile="demo", store={"url": store_url}) as gateway:
        gateway.policy.answer = lambda body, i: script([f"{REPLY} {i}"])
        await execute(store_url, "create unique index one_route on responses (route)")
        for probability in (0.45, 0.45, 0.9):
            # A ticket, one that cannot be kept, and a record written behind the request.
            gateway.scorer.probability = lambda score, p=probability: p
            assert (await gateway.ask(PROMPT, user=USER)).status_code == 200
        feedback = {"response_id": "chatcmpl-none", "thumb": "up", "comment": COMMENT}
        await gateway.http.post(
            f"{gateway.url}/v1/feedback", json=feedback, headers={"Authorization": f"Bearer {gateway.key}"}
        )
    said = "\n".join(f"{record.getMessage()}\n{record.exc_text or ''}" for record in caplog.records)
    assert "could not be kept: IntegrityError" in said
    assert "could not be written: IntegrityError" in said
    for private in (PROMPT, USER, REPLY, COMMENT, gateway.key):
        assert private not in said


async def test_greedy_answers_do_not_need_the_store(start_gateway: Any, store_url: str) -> None:
    async with start_gateway(store={"url": store_url}) as gateway:
        await execute(store_url, "drop table reviews", "drop table candidates")
        assert (await gateway.ask("hello")).status_code == 200


async def test_errors_of_statements_hide_their_parameters(store_url: str) -> None:
    engine = await open_database(store_url)
    with pytest.raises(Exception, match="parameters hidden") as error:
        async with engine.connect() as connection:
            await connection.execute(text("select * from nothing where a = :a"), {"a": PROMPT})
    await engine.dispose()
    assert PROMPT not in str(error.value)
