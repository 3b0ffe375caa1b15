"""`winnow serve` as a process, over upstreams that are faked over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from service.processes.child import Child, Program
from service.processes.progress import Progress
from service.processes.serve import greeting
from service.processes.stack import ServeOptions, plan
from service.processes.warden import Warden

SLOW = {"step_ms": 50.0, "tokens": 40, "shortest": 40}
ENDLESS = {"step_ms": 50.0, "tokens": 4000, "shortest": 4000}


@asynccontextmanager
async def streaming(running: Any, text: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """A stream that has begun."""
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("POST", **running.request(text, stream=True, max_tokens=4000)) as response,
    ):
        assert response.status_code == 200
        blocks = response.aiter_raw()
        await anext(blocks)
        yield blocks


async def rest(blocks: AsyncIterator[bytes]) -> str:
    return b"".join([block async for block in blocks]).decode()


async def until_not_ready(running: Any) -> None:
    async with asyncio.timeout(20):
        while (await running.ready()).status_code == 200:
            await asyncio.sleep(0.02)


def addresses(upstreams: Any) -> list[str]:
    return ["--policy-url", upstreams.policy_url, "--scorer-url", upstreams.scorer_url]


async def test_ctrl_c_lets_a_stream_end_with_done(start_upstreams: Callable[..., Any], start_command: Any) -> None:
    async with (
        start_upstreams(**SLOW) as upstreams,
        start_command("serve", *addresses(upstreams), keepalive_seconds=0.1) as serve,
        streaming(serve, "I was charged twice for my subscription.") as blocks,
    ):
        serve.process.send_signal(signal.SIGINT)
        await until_not_ready(serve)
        assert (await rest(blocks)).endswith("data: [DONE]\n\n")
        assert await serve.exit_code() == 0
    said = serve.log.read_text()
    assert "gateway  ready after" in said
    assert "Winnow is ready" in said
    assert "requests in flight have up to 75 s" in said, "drain_seconds, and what the gateway needs to close"
    # The settings name a keys file: it is used, and no key is added to it.
    assert "$WINNOW_KEY" in said
    assert [key["tenant"] for key in json.loads((serve.log.parent / "keys.json").read_text())["keys"]] == ["acme"]


async def test_a_second_ctrl_c_stops_at_once(start_upstreams: Callable[..., Any], start_command: Any) -> None:
    async with (
        start_upstreams(**ENDLESS) as upstreams,
        start_command("serve", *addresses(upstreams), drain_seconds=600) as serve,
        streaming(serve, "Name three trees.") as blocks,
    ):
        serve.process.send_signal(signal.SIGINT)
        await until_not_ready(serve)
        serve.process.send_signal(signal.SIGINT)
        assert "shutting_down" in await rest(blocks)
        assert await serve.exit_code() == 1


async def run_serve(folder: Path, *arguments: str, **environment: str) -> tuple[int | None, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "serve", *arguments),
        env=inherited | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
    )
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, said.decode()


async def test_a_state_folder_serves_one_at_a_time(
    start_upstreams: Callable[..., Any], start_command: Any, tmp_path: Path
) -> None:
    async with start_upstreams() as upstreams, start_command("serve", *addresses(upstreams)) as serve:
        code, said = await run_serve(tmp_path, *addresses(upstreams), "--state", "state", "--port", "1")
        assert code == 2
        assert f"another `winnow serve` (process {serve.process.pid})" in said
        assert "--state" in said
        serve.process.send_signal(signal.SIGTERM)
        assert await serve.exit_code() == 0
    assert not (tmp_path / "state" / "serve.pid").exists()


async def test_a_gateway_that_cannot_start_is_shown_by_its_log(
    start_upstreams: Callable[..., Any], tmp_path: Path, free_port: Callable[[], int]
) -> None:
    (tmp_path / "keys.json").write_text("{")
    async with start_upstreams() as upstreams:
        arguments = [*addresses(upstreams), "--port", str(free_port()), "--state", "state"]
        code, said = await run_serve(tmp_path, *arguments, WINNOW_KEYS_FILE="keys.json")
    assert code == 2
    assert "gateway did not start (ended with code 2)" in said
    assert "keys.json is not a keys file" in said


async def test_a_taken_port_is_said_with_its_option(start_upstreams: Callable[..., Any], tmp_path: Path) -> None:
    async with start_upstreams() as upstreams:
        port = upstreams.scorer_url.rpartition(":")[2]
        code, said = await run_serve(tmp_path, *addresses(upstreams), "--state", "state", "--port", port)
    assert code == 2
    assert f"port {port} on 127.0.0.1 cannot be used" in said
    assert "choose another with --port" in said


async def test_what_runs_nowhere_is_said(tmp_path: Path) -> None:
    code, said = await run_serve(tmp_path, "--policy-url", "http://127.0.0.1:1", "--state", "state")
    assert code == 2
    assert "start it first, or name its model with --policy-model" in said
    assert "Traceback" not in said


@pytest.fixture
def stack_options(tmp_path: Path) -> ServeOptions:
    return ServeOptions(state=tmp_path, policy_url="http://p", policy_model="m", scorer_url="http://s")


def test_the_greeting_holds_a_key_or_names_the_file(stack_options: ServeOptions) -> None:
    stack = plan(stack_options, lambda policy: [])
    text = greeting(stack, "wk-abc")
    assert "'Authorization: Bearer wk-abc'" in text
    assert "every winner is sent" in text
    text = greeting(stack, None)
    assert '"Authorization: Bearer $WINNOW_KEY"' in text, "the shell must fill it in"
    assert str(stack.keys_file) in text


async def test_a_terminal_shows_what_each_process_does_and_a_pipe_gets_lines(tmp_path: Path) -> None:
    warden = Warden()
    child = Child(Program("policy", [sys.executable, "-c", "print('Loading [weights]')"], "", tmp_path / "log"), warden)
    await child.start()
    await child.wait()
    warden.close()
    terminal = Console(force_terminal=True, width=60, record=True)
    async with Progress(terminal).starting([child]):
        await asyncio.sleep(0.5)
    shown = terminal.export_text()
    assert "policy Loading [weights]" in shown
    child.ready = True
    lines = Console(force_terminal=False, width=60, record=True)
    async with Progress(lines).starting([child]):
        Progress(lines).say("policy", "ready after 3 s [really]")
    assert lines.export_text() == "policy   ready after 3 s [really]\n"
