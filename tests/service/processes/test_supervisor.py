"""The supervisor against real processes: ready, restart, drain, and no orphans."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.errors import SetupError
from service.processes.ports import require_free_port
from service.processes.supervisor import Program, Supervisor, backoff_seconds

# A server that answers 200 and starts one child of its own, as vLLM does; both pids go to a file.
SERVER = textwrap.dedent(
    """
    import http.server, os, subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    with open(sys.argv[2], "a") as pids:
        print(os.getpid(), child.pid, file=pids)
    class Ok(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200); self.end_headers()
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ok).serve_forever()
    """
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def alive(pid: int) -> bool:
    """A zombie waiting for its reaper is dead for our purpose."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


def pids(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().split()] if path.exists() else []


@pytest.fixture
def program(tmp_path: Path) -> Program:
    port = free_port()
    return Program(
        name="server",
        arguments=[sys.executable, "-c", SERVER, str(port), str(tmp_path / "pids")],
        health=f"http://127.0.0.1:{port}/",
        log=tmp_path / "logs" / "server.log",
        drain_seconds=5,
    )


def test_backoff_doubles_up_to_half_a_minute() -> None:
    assert [backoff_seconds(n) for n in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]


def test_a_taken_port_is_refused_with_the_option_to_change() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=rf"port {port} on 127.0.0.1 .*--port"):
            require_free_port("127.0.0.1", port, "--port")


async def test_a_killed_child_is_restarted_and_stop_leaves_nothing(program: Program, tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    supervisor = Supervisor([program], say=lambda name, what: said.append((name, what)))
    await supervisor.start()
    first, grandchild = pids(tmp_path / "pids")
    assert httpx.get(program.health).status_code == 200

    os.kill(first, signal.SIGKILL)
    await until(lambda: len(pids(tmp_path / "pids")) == 4)
    assert not alive(grandchild), "what the dead process left in its group is killed"
    assert ("server", "ended with code -9; restarting in 1 s") in said

    second, second_grandchild = pids(tmp_path / "pids")[2:]
    await supervisor.stop()
    assert not alive(second)
    await until(lambda: not alive(second_grandchild))


async def test_a_program_that_cannot_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    broken = Program(
        name="policy",
        arguments=[sys.executable, "-c", "import sys; sys.exit('no such model: nonsense')"],
        health=f"http://127.0.0.1:{free_port()}/",
        log=tmp_path / "policy.log",
    )
    supervisor = Supervisor([broken], say=lambda *_: None)
    with pytest.raises(ExceptionGroup) as raised:
        await supervisor.start()
    await supervisor.stop()
    (error,) = raised.value.exceptions
    assert isinstance(error, SetupError)
    assert "policy did not start" in str(error)
    assert "no such model: nonsense" in str(error)


async def test_children_die_with_a_supervisor_that_is_killed(program: Program, tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import asyncio, pathlib
        from service.processes.supervisor import Program, Supervisor
        async def main():
            supervisor = Supervisor([Program("server", {list(program.arguments)!r}, {program.health!r},
                                             pathlib.Path({str(program.log)!r}))], say=lambda *_: None)
            await supervisor.start()
            await supervisor.watch()
        asyncio.run(main())
        """
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    await until(lambda: len(pids(tmp_path / "pids")) == 2)
    server, grandchild = pids(tmp_path / "pids")
    parent.kill()
    await parent.wait()
    await until(lambda: not alive(server))
    # The stand-in does not stop its own child as vLLM does.
    os.kill(grandchild, signal.SIGKILL)
