"""The machine's rates: what is timed is what is said."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from typer.testing import CliRunner

from loadtest.bench import machine
from loadtest.bench.cli import bench_app

FIRST_MS, STEP_MS = 20.0, 2.0


@pytest.fixture
def paced_policy() -> Iterator[str]:
    """Takes 20 ms for the first token and 2 ms for each that follows."""

    async def complete(request: Request) -> JSONResponse:
        body = await request.json()
        assert body["ignore_eos"]
        assert len(body["prompt"].split()) in (20, 60, 250, 850)
        await asyncio.sleep((FIRST_MS + STEP_MS * (body["max_tokens"] - 1)) / 1000)
        return JSONResponse({})

    models = Route("/v1/models", lambda _: JSONResponse({"data": [{"id": "paced"}]}))
    app = Starlette(routes=[models, Route("/v1/completions", complete, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    server.should_exit = True
    thread.join()


async def test_a_policy_of_known_pace_is_measured_at_that_pace(paced_policy: str) -> None:
    found = await machine._policy(paced_policy)
    assert set(found.step_ms) == {"1", "8"}
    # What the first token takes is not part of a step. uvloop counts whole milliseconds: a sleep may be one short.
    assert all(step > 0.7 * STEP_MS for step in found.step_ms.values())
    assert set(found.prefill_ms) == {"60", "250", "850"}
    assert all(first > FIRST_MS - 2 for first in found.prefill_ms.values())


def test_a_device_that_is_not_there_is_named() -> None:
    result = CliRunner().invoke(bench_app, ["machine", "--device", "nonsense"])
    assert result.exit_code == 2
    assert "'nonsense' cannot be used" in result.output


def test_a_policy_that_is_not_there_is_named() -> None:
    result = CliRunner().invoke(bench_app, ["machine", "--policy-url", "http://127.0.0.1:9"])
    assert result.exit_code == 2
    assert "http://127.0.0.1:9 cannot be measured" in result.output
    assert json.dumps("policy") not in result.output
