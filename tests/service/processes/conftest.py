"""Real processes of ours over upstreams that are faked over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from loadtest.bench.fake_policy import Pace
from loadtest.bench.fake_policy import app as policy_app
from service.keys.key_file import add_key


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Ports that were free a moment ago."""
    return _free_port


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """`app` at a free port."""
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def scorer_app() -> web.Application:
    """A Winnow scorer that gives every completion its length as score."""

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "fake@1", "aliases": ["champion"]}]})

    async def ready(_: web.Request) -> web.Response:
        return web.json_response({"status": "ready"})

    async def score(request: web.Request) -> web.Response:
        body = await request.json()
        results = [{"index": c["index"], "score": len(c["content"])} for c in body.get("completions", [])]
        return web.json_response({"orm": "fake@1", "results": results})

    made = web.Application()
    made.router.add_get("/v1/models", models)
    made.router.add_get("/readyz", ready)
    made.router.add_post("/v1/{call:score|prefill}", score)
    return made


@dataclass
class Upstreams:
    """Where the fakes listen."""

    policy_url: str
    scorer_url: str


@pytest.fixture
def start_upstreams() -> Callable[..., AbstractAsyncContextManager[Upstreams]]:
    """Starts a policy that decodes a token each `step_ms`, and a scorer."""

    @asynccontextmanager
    async def start(**pace: Any) -> AsyncIterator[Upstreams]:
        async with serving(policy_app(Pace(**pace))) as policy_url, serving(scorer_app()) as scorer_url:
            yield Upstreams(policy_url, scorer_url)

    return start


@dataclass
class RunningProcess:
    """A `winnow` command, the gateway's address and a key for it."""

    process: asyncio.subprocess.Process
    url: str
    key: str
    log: Path

    async def ready(self) -> httpx.Response:
        """What /readyz says, over a connection of its own."""
        async with httpx.AsyncClient(timeout=10) as client:
            return await client.get(f"{self.url}/readyz")

    def request(self, text: str, **fields: Any) -> dict[str, Any]:
        """Arguments of a chat request."""
        body = {"model": "winnow", "messages": [{"role": "user", "content": text}], **fields}
        headers = {"authorization": f"Bearer {self.key}"}
        return {"url": f"{self.url}/v1/chat/completions", "json": body, "headers": headers}

    async def exit_code(self, seconds: float = 30) -> int:
        """Its exit code; fails with its log when it does not end."""
        try:
            async with asyncio.timeout(seconds):
                return await self.process.wait()
        except TimeoutError:
            raise AssertionError(f"it did not end:\n{self.log.read_text()}") from None


StartCommand = Callable[..., AbstractAsyncContextManager[RunningProcess]]


@pytest.fixture
def start_command(tmp_path: Path) -> StartCommand:
    """Runs `winnow NAME ARGUMENTS` with settings in its environment until the gateway at its --port is ready."""

    @asynccontextmanager
    async def start(name: str, *arguments: str, **settings: object) -> AsyncIterator[RunningProcess]:
        port, keys, log = _free_port(), tmp_path / "keys.json", tmp_path / f"{name}.log"
        key = add_key(keys, "acme", "client")
        inherited = {n: v for n, v in os.environ.items() if not n.startswith("WINNOW_")}
        given = {"keys_file": keys, "state_dir": tmp_path / "state", **settings}
        environment = {f"WINNOW_{name.upper()}": str(value) for name, value in given.items()}
        with log.open("wb") as out:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "service", name, "--port", str(port), *arguments),
                env=inherited | environment,
                stdout=out,
                stderr=out,
                cwd=tmp_path,
            )
        running = RunningProcess(process, f"http://127.0.0.1:{port}", key, log)
        try:
            await _until_ready(running)
            yield running
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await process.wait()

    return start


async def _until_ready(running: RunningProcess) -> None:
    async with asyncio.timeout(90):
        while running.process.returncode is None:
            try:
                if (await running.ready()).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
    raise AssertionError(f"it ended with code {running.process.returncode}:\n{running.log.read_text()}")
