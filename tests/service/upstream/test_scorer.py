"""What the gateway's client makes of a scorer's refusals, over HTTP."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from service.errors import ScorerLate, ScorerUnavailable
from service.upstream.scorer import HttpScorer


@pytest.mark.parametrize(("status", "kind"), [(504, ScorerLate), (503, ScorerUnavailable), (500, ScorerUnavailable)])
async def test_no_time_left_is_told_apart_from_a_failure(status: int, kind: type[ScorerUnavailable]) -> None:
    async def refuse(request: web.Request) -> web.Response:
        assert (await request.json())["deadline_ms"] == 1_500
        return web.json_response({"error": {"message": "because"}}, status=status)

    app = web.Application()
    app.router.add_post("/v1/score", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with aiohttp.ClientSession() as session:
            client = HttpScorer(url, None, session)
            with pytest.raises(ScorerUnavailable, match=f"answered {status}: because") as caught:
                await client.score([], [], "fake@1", "billing", 1_500)
            assert type(caught.value) is kind
    finally:
        await runner.cleanup()
