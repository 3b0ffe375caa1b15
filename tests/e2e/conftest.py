"""The real thing: `winnow serve` with vLLM, the bundled reward model and the gateway, once for all these tests."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

READY_SECONDS = 240
ROOT = Path(__file__).parents[2]
# Eight candidates of 160 tokens take longer than a route's budget on a CPU that computes in fp32 alone.
PATIENCE = {f"WINNOW_ROUTES__{route}__BUDGET_MS": "120000" for route in ("BILLING", "FRAUD")}


class Stack(NamedTuple):
    """A running `winnow serve`."""

    process: subprocess.Popen[str]
    url: str
    key: str
    policy_port: int
    scorer_url: str
    state: Path


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Ready to answer; drained by SIGINT afterwards, as Ctrl-C does."""
    state = tmp_path_factory.mktemp("state")
    gateway, policy, scorer = _free_ports(3)
    ports = ["--port", str(gateway), "--policy-port", str(policy), "--scorer-port", str(scorer)]
    arguments = [sys.executable, "-m", "service", "serve", *ports, "--state", str(state)]
    said = state / "said"
    with said.open("w") as out:
        process = subprocess.Popen(arguments, stdout=out, stderr=out, cwd=ROOT, text=True, env=os.environ | PATIENCE)
    key = _wait_for_key(process, said)
    yield Stack(process, f"http://127.0.0.1:{gateway}", key, policy, f"http://127.0.0.1:{scorer}", state)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)


def _wait_for_key(process: subprocess.Popen[str], said: Path) -> str:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        text = said.read_text()
        if process.poll() is not None:
            break
        if "Winnow is ready" in text and (found := re.search(r"Bearer (wk-\S+)'", text)):
            return found.group(1)
        time.sleep(0.5)
    process.kill()
    logs = "\n".join(path.read_text()[-3000:] for path in (said.parent / "logs").glob("*.log"))
    raise AssertionError(f"winnow serve did not become ready:\n{said.read_text()}\n{logs}")


@pytest.fixture(scope="session")
def litellm_python() -> str:
    """LiteLLM has an environment of its own, made by `make test`."""
    python = ROOT / ".venv-litellm" / "bin" / "python"
    assert python.exists(), "LiteLLM's environment is missing: run the tests with `make test`"
    return str(python)


def pids_listening_on(port: int) -> list[int]:
    """Processes of ours whose command line names the port."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if b"vllm.entrypoints.openai.api_server" in arguments and str(port).encode() in arguments:
                found.append(int(entry.name))
    return found


@pytest.fixture
def policy_pids(stack: Stack) -> list[int]:
    """The policy's API server."""
    return pids_listening_on(stack.policy_port)
