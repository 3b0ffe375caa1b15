"""A gateway process that is told to stop: what it took is finished, and everybody can see that it stops."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

# 40 tokens, one each 50 ms: two seconds of work.
SLOW = {"step_ms": 50.0, "tokens": 40, "shortest": 40}
ENDLESS = {"step_ms": 50.0, "tokens": 4000, "shortest": 4000}


@asynccontextmanager
async def streaming(running: Any, text: str, **fields: Any) -> AsyncIterator[AsyncIterator[bytes]]:
    """A stream that has begun."""
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("POST", **running.request(text, stream=True, max_tokens=4000, **fields)) as response,
    ):
        assert response.status_code == 200
        blocks = response.aiter_raw()
        await anext(blocks)
        yield blocks


async def rest(blocks: AsyncIterator[bytes]) -> str:
    return b"".join([block async for block in blocks]).decode()


async def until_not_ready(running: Any) -> httpx.Response:
    async with asyncio.timeout(10):
        while (response := await running.ready()).status_code == 200:
            await asyncio.sleep(0.02)
    assert isinstance(response, httpx.Response)
    return response


@pytest.mark.parametrize(
    ("text", "number"),
    [("Name three trees.", signal.SIGINT), ("I was charged twice for my subscription.", signal.SIGTERM)],
)
async def test_a_stream_ends_with_done_while_readiness_is_503(
    start_upstreams: Callable[..., Any], start_command: Any, text: str, number: signal.Signals
) -> None:
    async with (
        start_upstreams(**SLOW) as upstreams,
        start_command(
            "gateway", policy_url=upstreams.policy_url, scorer_url=upstreams.scorer_url, keepalive_seconds=0.1
        ) as gateway,
        streaming(gateway, text, rerank={"n": 4}) as blocks,
    ):
        gateway.process.send_signal(number)
        stopping = await until_not_ready(gateway)
        assert stopping.json() == {"status": "stopping"}
        assert stopping.headers["connection"] == "close"
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{gateway.url}/livez")).status_code == 200, "alive: it must not be restarted"
            assert (await client.head(f"{gateway.url}/readyz")).status_code == 503
            refused = await client.post(**gateway.request("hello"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["connection"] == "close"
        assert "x-request-id" in refused.headers
        text = await rest(blocks)
        assert text.endswith("data: [DONE]\n\n")
        assert '"finish_reason":"stop"' in text
        assert await gateway.exit_code() == 0


async def test_an_idle_gateway_stops_at_once(start_upstreams: Callable[..., Any], start_command: Any) -> None:
    async with (
        start_upstreams() as upstreams,
        start_command("gateway", policy_url=upstreams.policy_url, scorer_url=upstreams.scorer_url) as gateway,
        # An idle connection is none to wait for.
        httpx.AsyncClient() as client,
    ):
        assert (await client.post(**gateway.request("hello"))).status_code == 200
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.exit_code(seconds=20) == 0, "well before the 60 s of drain_seconds"


async def test_what_is_not_done_in_time_is_cut_off_and_told(
    start_upstreams: Callable[..., Any], start_command: Any
) -> None:
    async with (
        start_upstreams(**ENDLESS) as upstreams,
        start_command(
            "gateway", policy_url=upstreams.policy_url, scorer_url=upstreams.scorer_url, drain_seconds=1
        ) as gateway,
        httpx.AsyncClient(timeout=60) as client,
        streaming(gateway, "Name three trees.") as blocks,
    ):
        whole = asyncio.create_task(client.post(**gateway.request("Name four trees.", max_tokens=4000)))
        await asyncio.sleep(0.3)
        gateway.process.send_signal(signal.SIGTERM)
        text = await rest(blocks)
        assert '"code":"shutting_down"' in text.split("data: ")[-1]
        assert "[DONE]" not in text
        assert (await whole).status_code == 503
        assert (await whole).json()["error"]["code"] == "shutting_down"
        assert await gateway.exit_code() == 1
    assert "2 requests are cut off" in gateway.log.read_text()
    assert "Traceback" not in gateway.log.read_text()


async def test_a_second_signal_stops_it_at_once(start_upstreams: Callable[..., Any], start_command: Any) -> None:
    async with (
        start_upstreams(**ENDLESS) as upstreams,
        start_command(
            "gateway", policy_url=upstreams.policy_url, scorer_url=upstreams.scorer_url, drain_seconds=600
        ) as gateway,
        streaming(gateway, "Name three trees.") as blocks,
    ):
        gateway.process.send_signal(signal.SIGINT)
        await until_not_ready(gateway)
        gateway.process.send_signal(signal.SIGINT)
        assert "shutting_down" in await rest(blocks)
        assert await gateway.exit_code() == 1


async def test_during_the_delay_requests_are_still_taken(
    start_upstreams: Callable[..., Any], start_command: Any
) -> None:
    async with (
        start_upstreams() as upstreams,
        start_command(
            "gateway", policy_url=upstreams.policy_url, scorer_url=upstreams.scorer_url, drain_delay_seconds=5
        ) as gateway,
        httpx.AsyncClient() as client,
    ):
        gateway.process.send_signal(signal.SIGTERM)
        await until_not_ready(gateway)
        answer = await client.post(**gateway.request("hello"))
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert await gateway.exit_code() == 0


async def test_a_taken_port_is_said_with_the_option(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", "gateway", "--port", str(port)),
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
        )
        _, said = await process.communicate()
    assert process.returncode == 2
    assert f"port {port} on 127.0.0.1 cannot be used" in said.decode()
    assert "--port" in said.decode()


async def test_an_idle_connection_is_kept(start_upstreams: Callable[..., Any], start_command: Any) -> None:
    async with (
        start_upstreams() as upstreams,
        start_command("gateway", policy_url=upstreams.policy_url, scorer_url=upstreams.scorer_url) as gateway,
    ):
        url = httpx.URL(gateway.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        for pause in (0, 6):
            await asyncio.sleep(pause)
            writer.write(b"HEAD /livez HTTP/1.1\r\nHost: here\r\n\r\n")
            assert b" 200 " in await reader.readline()
            while await reader.readline() != b"\r\n":
                pass
        writer.close()
        await writer.wait_closed()
