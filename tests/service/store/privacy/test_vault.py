"""What a person approves is what the customer gets: whole until it is delivered, sealed at rest, then gone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import text

from service.errors import SetupError, StoreUnavailable
from service.keys.key_file import add_key
from service.settings import load_settings
from service.store.database import open_database
from service.store.privacy.retention import forget_user
from service.store.privacy.vault import Vault

REPLY = "Call +49 30 1234567 or write to help@bank.example."
CALL = {
    "index": 0,
    "id": "c1",
    "type": "function",
    "function": {"name": "refund", "arguments": '{"card": "4111111111111111"}'},
}


async def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    engine = await open_database(url)
    async with engine.connect() as connection:
        found = [tuple(row) for row in await connection.execute(text(query))]
    await engine.dispose()
    return found


class Desk:
    """An application, and a reviewer who decides what it asked."""

    def __init__(self, gateway: Any) -> None:
        self._gateway = gateway
        self._anna = {"Authorization": f"Bearer {add_key(gateway.keys_file, 'anna', 'operator', tenants=['*'])}"}

    async def hold(self, **fields: Any) -> tuple[str, str]:
        body = (await self._gateway.ask(**fields)).json()
        return body["id"], body["rerank"]["review_id"]

    async def ticket(self, review_id: str) -> Any:
        return (await self._gateway.http.get(f"{self._gateway.url}/v1/reviews/{review_id}", headers=self._anna)).json()

    async def decide(self, review_id: str, **verdict: Any) -> Any:
        url = f"{self._gateway.url}/v1/reviews/{review_id}"
        await self._gateway.http.post(f"{url}/claim", headers=self._anna)
        done = await self._gateway.http.post(f"{url}/verdict", headers=self._anna, json=verdict)
        assert done.status_code == 200, done.text
        return done.json()

    async def fetch(self, response_id: str) -> Any:
        headers = {"Authorization": f"Bearer {self._gateway.key}"}
        return await self._gateway.http.get(f"{self._gateway.url}/v1/rerank/{response_id}", headers=headers)

    async def review(self, response_id: str) -> Any:
        return (await self.fetch(response_id)).json()["review"]


@pytest.fixture
def keeping(start_gateway: Any, store_url: str, script: Any) -> Any:
    """Starts gateways whose answers are all held, each with a text and a call that redaction would change."""

    def start(**store: Any) -> Any:
        class Started:
            async def __aenter__(self) -> Any:
                self._context = start_gateway(store={"url": store_url, **store})
                gateway = await self._context.__aenter__()
                gateway.scorer.probability = lambda score: 0.45
                gateway.policy.answer = lambda body, i: script([REPLY], tool_calls=[CALL] if body.get("tools") else [])
                return gateway

            async def __aexit__(self, *error: Any) -> None:
                await self._context.__aexit__(*error)

        return Started()

    return start


TOOLS = [{"type": "function", "function": {"name": "refund", "parameters": {"type": "object", "properties": {}}}}]


async def test_what_was_accepted_is_sent_byte_for_byte_and_history_has_the_redacted_copy(
    keeping: Any, store_url: str
) -> None:
    async with keeping() as gateway:
        desk = Desk(gateway)
        response_id, review_id = await desk.hold()
        ticket = await desk.ticket(review_id)
        assert ticket["candidates"][0]["message"]["content"] == REPLY
        assert ticket["candidates"][0]["content"] == "Call [phone] or write to [email]."
        await desk.decide(review_id, verdict="accept")
        review = await desk.review(response_id)
        assert (review["text"], review["message"]["content"]) == (REPLY, REPLY)
    assert {row[0] for row in await rows(store_url, "select content from candidates")} == {
        "Call [phone] or write to [email]."
    }


async def test_tool_calls_are_sent_whole(keeping: Any) -> None:
    async with keeping() as gateway:
        desk = Desk(gateway)
        response_id, review_id = await desk.hold(tools=TOOLS)
        await desk.decide(review_id, verdict="accept")
        (call,) = (await desk.review(response_id))["message"]["tool_calls"]
        assert (call["id"], call["function"]) == ("c1", CALL["function"])


async def test_what_a_reviewer_wrote_is_sent_whole_and_kept_redacted(keeping: Any, store_url: str) -> None:
    async with keeping() as gateway:
        desk = Desk(gateway)
        response_id, review_id = await desk.hold()
        decided = await desk.decide(
            review_id, verdict="edit", text="Ask bob@bank.example.", note="as ann@bank.example said"
        )
        assert (decided["text"], decided["note"]) == ("Ask [email].", "as [email] said")
        assert (await desk.review(response_id))["text"] == "Ask bob@bank.example."
    assert await rows(store_url, 'select "index" from held_messages') == [(-1,)]


async def test_only_what_was_chosen_stays_and_only_until_it_is_delivered(keeping: Any, store_url: str) -> None:
    async with keeping(delivered_minutes=0) as gateway:
        desk = Desk(gateway)
        response_id, review_id = await desk.hold()
        assert len(await rows(store_url, "select 1 from held_messages")) == 8
        await desk.decide(review_id, verdict="choose", candidate=3)
        assert await rows(store_url, 'select "index" from held_messages') == [(3,)]
        assert (await desk.review(response_id))["message"]["content"] == REPLY
        assert await rows(store_url, "select 1 from held_messages") == []
        again = await desk.review(response_id)
        assert (again["message"], again["text"]) == (None, "Call [phone] or write to [email].")
        _, rejected = await desk.hold()
        await desk.decide(rejected, verdict="reject")
        assert await rows(store_url, "select 1 from held_messages") == []


async def test_a_delivery_can_be_repeated_within_its_time(keeping: Any, store_url: str) -> None:
    async with keeping() as gateway:
        desk = Desk(gateway)
        response_id, review_id = await desk.hold()
        await desk.decide(review_id, verdict="accept")
        first, second = [await desk.review(response_id) for _ in range(2)]
        assert first == second
        engine = await open_database(store_url)
        async with engine.begin() as connection:
            await connection.execute(text("update held_messages set delivered_at_ms = delivered_at_ms - 3600001"))
        assert (await desk.review(response_id))["message"] is None
        async with engine.begin() as connection:
            assert await Vault().prune(connection) == 1
        await engine.dispose()


async def test_forgetting_a_user_takes_what_is_held(keeping: Any, store_url: str) -> None:
    async with keeping() as gateway:
        await Desk(gateway).hold(user="u-7")
        engine = await open_database(store_url)
        assert await forget_user(engine, "acme", "u-7") == 1
        await engine.dispose()
    assert await rows(store_url, "select 1 from held_messages") == []


async def test_with_a_key_nothing_readable_is_at_rest_and_keys_rotate(keeping: Any, store_url: str) -> None:
    old, new, other = (Fernet.generate_key().decode() for _ in range(3))
    async with keeping(encryption_key=old) as gateway:
        response_id, review_id = await Desk(gateway).hold()
        sealed = [bytes(row[0]) for row in await rows(store_url, "select message from held_messages")]
        assert len(sealed) == 8
        assert all(b"Call" not in each for each in sealed)
        assert json.loads(Fernet(old).decrypt(sealed[0]))["content"] == REPLY
    async with keeping(encryption_key=f"{new}, {old}") as gateway:
        desk = Desk(gateway)
        await desk.decide(review_id, verdict="accept")
        assert (await desk.review(response_id))["text"] == REPLY
        await desk.hold()
        newest = [bytes(row[0]) for row in await rows(store_url, "select message from held_messages")]
        readable = 0
        for each in newest:
            try:
                readable += bool(Fernet(new).decrypt(each))
            except InvalidToken:
                continue
        assert readable == 8
    async with keeping(encryption_key=other) as gateway:
        refused = await Desk(gateway).fetch(response_id)
        # Better late than another text than the one that was approved.
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "held_message_sealed")
        assert REPLY not in refused.text


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(SetupError, match="32 bytes in URL-safe base64"):
        load_settings(keys_file="x", store={"encryption_key": "hunter2"})


async def test_the_key_is_hidden_among_the_settings(keeping: Any) -> None:
    key = Fernet.generate_key().decode()
    async with keeping(encryption_key=key) as gateway:
        root = {"Authorization": f"Bearer {add_key(gateway.keys_file, 'root', 'admin', tenants=['*'])}"}
        assert key not in (await gateway.http.get(f"{gateway.url}/v1/settings", headers=root)).text


def test_any_message_survives() -> None:
    for vault in (Vault(), Vault([Fernet.generate_key().decode()])):
        for content in ("", "\ud83d lone", "a\x00b", "😀 ünïcode", None):
            assert vault.open(vault.seal({"content": content})) == {"content": content}
    plain = Vault().seal({"content": "x"})
    assert Vault([Fernet.generate_key().decode()]).open(plain) == {"content": "x"}
    with pytest.raises(StoreUnavailable, match=r"store\.encryption_key"):
        Vault().open(Vault([Fernet.generate_key().decode()]).seal({}))


async def test_a_request_that_is_not_to_be_stored_leaves_counts_and_what_is_held(
    start_gateway: Any, keeping: Any, store_url: str
) -> None:
    async with keeping() as gateway:
        desk = Desk(gateway)
        response_id, review_id = await desk.hold(store=False, tools=TOOLS, stop=["private-stop"])
        ((prompt, parameters),) = await rows(store_url, "select prompt, parameters from responses")
        assert prompt is None
        assert "private-stop" not in str(parameters)
        assert "refund" not in str(parameters)
        assert set(await rows(store_url, "select content, tool_calls from candidates")) == {(None, None)}
        await desk.decide(review_id, verdict="accept")
        assert (await desk.review(response_id))["message"]["content"] == REPLY
