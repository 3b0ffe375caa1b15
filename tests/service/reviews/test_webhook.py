"""What other systems are told of reviews: signed, until they take it, by one gateway at a time."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from service.errors import SetupError
from service.keys.key_file import add_key
from service.reviews.webhook import WebhookPace, signature
from service.settings import load_settings

SECRET = "a secret that is long"


class Receiver:
    """Another system: refuses the first so many events, keeps the rest."""

    def __init__(self) -> None:
        self.refuse = 0
        self.seen: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        payload = await request.read()
        if self.refuse:
            self.refuse -= 1
            return web.Response(status=500)
        self.seen.append((dict(request.headers), payload))
        return web.Response()

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(payload) for _, payload in self.seen]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


@pytest.fixture
def start_gateway(start_gateway: Any) -> Any:
    """Gateways in a hurry. An event that was held when its gateway stopped is free again after 3 `post_seconds`."""
    pace = WebhookPace(look_seconds=0.05, post_seconds=2.0, longest_ms=50, most_tries=10_000)
    return partial(start_gateway, webhook_pace=pace)


async def until(receiver: Receiver, count: int) -> None:
    async with asyncio.timeout(60):
        while len(receiver.seen) < count:
            await asyncio.sleep(0.02)


def kept(url: str, receiver: Receiver) -> dict[str, Any]:
    return {"url": url, "webhook_url": receiver.url, "webhook_secret": SECRET}


async def test_a_review_is_told_when_it_opens_and_when_it_is_decided(
    start_gateway: Any, store_url: str, receiver: Receiver
) -> None:
    async with start_gateway(store=kept(store_url, receiver)) as gateway:
        gateway.scorer.probability = lambda score: 0.45
        receiver.refuse = 3
        answer = (await gateway.ask()).json()
        await until(receiver, 1)
        assert gateway.registry.get_sample_value("winnow_webhook_failures_total") == 3
        headers = {"Authorization": f"Bearer {add_key(gateway.keys_file, 'anna', 'operator', tenants=['*'])}"}
        review = f"{gateway.url}/v1/reviews/{answer['rerank']['review_id']}"
        await gateway.http.post(f"{review}/claim", headers=headers)
        await gateway.http.post(f"{review}/verdict", headers=headers, json={"verdict": "edit", "text": "By hand."})
        await until(receiver, 2)
    opened, decided = receiver.bodies()
    assert (opened["type"], decided["type"]) == ("review.opened", "review.decided")
    assert opened["review"]["response_id"] == answer["id"]
    assert (decided["review"]["status"], decided["review"]["verdict"]) == ("decided", "edit")
    assert b"By hand." not in receiver.seen[1][1]
    sent, payload = receiver.seen[0]
    at, _, given = sent["x-winnow-signature"].removeprefix("t=").partition(",v1=")
    assert given == hmac.new(SECRET.encode(), f"{at}.".encode() + payload, hashlib.sha256).hexdigest()
    assert sent["x-winnow-event"] == opened["id"]


async def test_what_was_not_taken_is_told_after_a_restart_and_once(
    start_gateway: Any, store_url: str, receiver: Receiver
) -> None:
    receiver.refuse = 10_000
    async with start_gateway(store=kept(store_url, receiver)) as gateway:
        gateway.scorer.probability = lambda score: 0.45
        for _ in range(5):
            await gateway.ask()
    receiver.refuse = 0
    both = (start_gateway(store=kept(store_url, receiver)) for _ in range(2))
    async with next(both), next(both):
        await until(receiver, 5)
        await asyncio.sleep(0.5)
    assert len({body["id"] for body in receiver.bodies()}) == len(receiver.seen) == 5


def test_a_signature_by_hand() -> None:
    # echo -n '7.{}' | openssl dgst -sha256 -hmac 'a secret that is long'
    assert signature(SECRET, 7, b"{}") == "t=7,v1=9d5f7e21a663842caed874a6631d346283d8ecc27005ee43c2b96fd848f67e23"


def test_an_unsigned_webhook_is_refused() -> None:
    with pytest.raises(SetupError, match="at least 16 characters"):
        load_settings(keys_file="x", store={"webhook_url": "http://x", "webhook_secret": "short"})
