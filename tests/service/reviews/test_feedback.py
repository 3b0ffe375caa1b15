"""What applications say of their own answers, and of nobody else's."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from service.keys.key_file import add_key
from service.store.database import open_database
from service.store.privacy.retention import forget_user


async def said(gateway: Any, body: dict[str, Any], key: str | None = None) -> Any:
    headers = {"Authorization": f"Bearer {key or gateway.key}"}
    return await gateway.http.post(f"{gateway.url}/v1/feedback", headers=headers, json=body)


async def test_feedback_is_kept_redacted_and_forgotten_with_its_answer(start_gateway: Any, store_url: str) -> None:
    async with start_gateway(store={"url": store_url}) as gateway:
        response_id = (await gateway.ask(user="u-1")).json()["id"]
        body = {"thumb": "down", "rating": 2, "preferred": 3, "rejected": 0, "comment": "write to a@b.org"}
        answer = await said(gateway, {"response_id": response_id, **body})
        assert answer.status_code == 201
        assert answer.json()["id"].startswith("feedback-")
    engine = await open_database(store_url)
    columns = "response_id, tenant, thumb, rating, preferred, rejected, comment"
    async with engine.connect() as connection:
        (row,) = (await connection.execute(text(f"select {columns} from feedback"))).all()
    assert tuple(row) == (response_id, "acme", "down", 2, 3, 0, "write to [email]")
    assert await forget_user(engine, "acme", "u-1") == 1
    async with engine.connect() as connection:
        for table in ("feedback", "candidates", "reviews", "responses"):
            assert (await connection.execute(text(f"select count(*) from {table}"))).scalar_one() == 0
    await engine.dispose()


async def test_an_answer_that_another_process_gave_is_found_in_the_store(start_gateway: Any, store_url: str) -> None:
    async with start_gateway(store={"url": store_url}) as gateway:
        response_id = (await gateway.ask()).json()["id"]
    async with start_gateway(store={"url": store_url}) as other:
        assert (await said(other, {"response_id": response_id, "thumb": "up"})).status_code == 201


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "say `thumb`, `rating`"),
        ({"rating": 6}, "rating"),
        ({"preferred": 1}, "go together"),
        ({"preferred": 1, "rejected": 1}, "two candidates"),
        ({"thumb": "sideways"}, "thumb"),
        ({"thumb": "up", "stars": 3}, "stars is not a parameter"),
    ],
)
async def test_what_says_nothing_is_refused(start_gateway: Any, tmp_path: Any, body: Any, message: str) -> None:
    async with start_gateway(store={"url": f"sqlite:///{tmp_path / 'a.db'}"}) as gateway:
        response_id = (await gateway.ask()).json()["id"]
        answer = await said(gateway, {"response_id": response_id, **body})
        assert answer.status_code == 400
        assert message in answer.json()["error"]["message"]


async def test_of_others_answers_nothing_can_be_said(start_gateway: Any, tmp_path: Any) -> None:
    async with start_gateway(store={"url": f"sqlite:///{tmp_path / 'a.db'}"}) as keeping:
        response_id = (await keeping.ask()).json()["id"]
        other = add_key(keeping.keys_file, "other", "client")
        body = {"response_id": response_id, "thumb": "up"}
        assert (await said(keeping, body, other)).json()["error"]["code"] == "response_not_found"
        assert (await said(keeping, {"response_id": "chatcmpl-none", "thumb": "up"})).status_code == 404
    async with start_gateway(profile="demo", store={"url": "none"}) as gateway:
        assert (await said(gateway, body)).json()["error"]["code"] == "no_store"


async def test_a_comment_is_redacted_as_the_settings_say(start_gateway: Any, store_url: str) -> None:
    async with start_gateway(store={"url": store_url, "phone_regions": ["US"]}) as gateway:
        response_id = (await gateway.ask()).json()["id"]
        # In Germany, which the default names, this can be dialled.
        body = {"response_id": response_id, "thumb": "up", "comment": "call 581 2345 or a@b.org"}
        assert (await said(gateway, body)).status_code == 201
    engine = await open_database(store_url)
    async with engine.connect() as connection:
        assert (await connection.execute(text("select comment from feedback"))).scalars().all() == [
            "call 581 2345 or [email]"
        ]
    await engine.dispose()
