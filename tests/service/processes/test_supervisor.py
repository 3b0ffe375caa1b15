"""The supervisor against real processes: ready, restart, drain, and no orphans."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from service.errors import SetupError
from service.processes.child import Program, describe_exit
from service.processes.supervisor import Supervisor, backoff_seconds

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
        def log_message(self, *_): pass
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Ok).serve_forever()
    """
)


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
def program(tmp_path: Path, free_port: Callable[[], int]) -> Program:
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


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "ended with code 1"),
        (-15, "was killed by SIGTERM"),
        (-9, "was killed by SIGKILL, as happens when memory runs out"),
    ],
)
def test_exit_codes_in_words(code: int, words: str) -> None:
    assert describe_exit(code) == words


async def test_a_killed_child_is_restarted_and_stop_leaves_nothing(program: Program, tmp_path: Path) -> None:
    said: list[tuple[str, str]] = []
    supervisor = Supervisor([program], say=lambda name, what: said.append((name, what)))
    await supervisor.start()
    first, grandchild = pids(tmp_path / "pids")
    assert httpx.get(program.health).status_code == 200

    os.kill(first, signal.SIGKILL)
    await until(lambda: len(pids(tmp_path / "pids")) == 4)
    assert not alive(grandchild), "what the dead process left in its group is killed"
    assert ("server", "was killed by SIGKILL, as happens when memory runs out; restarting in 1 s") in said
    await until(lambda: any(what.startswith("ready again") for _, what in said))

    second, second_grandchild = pids(tmp_path / "pids")[2:]
    await supervisor.stop()
    assert not alive(second)
    await until(lambda: not alive(second_grandchild))


async def test_a_program_that_cannot_start_is_named_with_the_end_of_its_log(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
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
    assert "policy did not start (ended with code 1)" in str(error)
    assert "no such model: nonsense" in str(error)


async def test_a_crash_loop_is_said_with_the_log(
    program: Program, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """It serves once, and each later start fails."""
    once = f"import os, sys\nif os.path.exists(sys.argv[2]): sys.exit('out of disk')\n{SERVER}"
    said: list[str] = []
    arguments = [sys.executable, "-c", once, *program.arguments[3:]]
    supervisor = Supervisor([replace(program, arguments=arguments)], say=lambda _, what: said.append(what))
    await supervisor.start()
    os.kill(pids(tmp_path / "pids")[0], signal.SIGKILL)
    await until(lambda: any("3 times in a row" in what for what in said))
    await supervisor.stop()
    assert "ended with code 1 (2 times in a row); restarting in 2 s\n  | out of disk" in said
    assert "ended with code 1 (3 times in a row); restarting in 4 s\n  | out of disk" in said


STUBBORN = """
import http.server, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
"""


async def test_what_does_not_end_is_killed_after_its_drain_time(program: Program, tmp_path: Path) -> None:
    stubborn = replace(program, arguments=[sys.executable, "-c", STUBBORN + SERVER, *program.arguments[3:]])
    supervisor = Supervisor([replace(stubborn, drain_seconds=0.5)], say=lambda *_: None)
    await supervisor.start()
    await supervisor.stop()
    assert supervisor.children[0].exit_code == -signal.SIGKILL
    assert not any(map(alive, pids(tmp_path / "pids")))


async def test_a_second_request_to_stop_ends_the_wait(program: Program, tmp_path: Path) -> None:
    impatient = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: next(asked, None) or sys.exit(3))\n"
    impatient += "asked = iter(['once'])\n"
    arguments = [sys.executable, "-c", impatient + SERVER, *program.arguments[3:]]
    supervisor = Supervisor([replace(program, arguments=arguments, drain_seconds=600)], say=lambda *_: None)
    await supervisor.start()
    stopping = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(0.5)
    assert not stopping.done()
    supervisor.at_once.set()
    await asyncio.wait_for(stopping, 30)
    assert supervisor.children[0].exit_code == 3
    assert not any(map(alive, pids(tmp_path / "pids")))


async def test_nothing_survives_a_supervisor_that_is_killed(program: Program, tmp_path: Path) -> None:
    """Not even a process that ignores SIGTERM, nor one that its parent did not end."""
    arguments = [sys.executable, "-c", STUBBORN + SERVER, *program.arguments[3:]]
    script = textwrap.dedent(
        f"""
        import asyncio, pathlib
        from service.processes.child import Program
        from service.processes.supervisor import Supervisor
        async def main():
            supervisor = Supervisor([Program("server", {arguments!r}, {program.health!r},
                                             pathlib.Path({str(program.log)!r}), drain_seconds=0.5)],
                                    say=lambda *_: None)
            await supervisor.start()
            await supervisor.watch()
        asyncio.run(main())
        """
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    await until(lambda: len(pids(tmp_path / "pids")) == 2)
    parent.kill()
    await parent.wait()
    await until(lambda: not any(map(alive, pids(tmp_path / "pids"))))
