"""`winnow serve`: policy, scorer and gateway of one machine, from nothing to a curl that works."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from service.api.authentication import add_key
from service.errors import SetupError
from service.processes.policy import BUNDLED_MODEL, is_cpu_build, prepare_bundled
from service.processes.ports import require_free_port
from service.processes.supervisor import Program, Supervisor

_HEARTBEAT_SECONDS = 10.0
# More than the gateway gives its own requests.
_GATEWAY_DRAIN_SECONDS = 25.0


class ServeOptions(NamedTuple):
    """What to run, where."""

    config: Path | None
    host: str
    port: int
    policy_port: int
    scorer_port: int
    model: str
    draft: str | None
    orm: str
    policy_url: str | None
    scorer_url: str | None
    profile: str
    state: Path


def programs(plan: ServeOptions, keys: Path) -> list[Program]:
    """The processes to start, in the order in which their ports matter; the gateway is last and drains first."""
    this = [sys.executable, "-m", "service"]
    logs = plan.state / "logs"
    started: list[Program] = []
    if plan.scorer_url is None:
        url = f"http://127.0.0.1:{plan.scorer_port}"
        arguments = [*this, "scorer", "--model", plan.orm, "--port", str(plan.scorer_port)]
        started.append(Program("scorer", arguments, f"{url}/readyz", logs / "scorer.log"))
    if plan.policy_url is None:
        url = f"http://127.0.0.1:{plan.policy_port}"
        arguments = [*this, "policy", "--model", plan.model, "--port", str(plan.policy_port)]
        arguments += ["--draft", plan.draft] if plan.draft else []
        started.append(Program("policy", arguments, f"{url}/health", logs / "policy.log"))
    arguments = [*this, "gateway", "--host", plan.host, "--port", str(plan.port)]
    if plan.config is not None:
        arguments += ["--config", str(plan.config)]
    gateway = Program(
        "gateway",
        arguments,
        f"{_base_url(plan)}/readyz",
        logs / "gateway.log",
        gateway_environment(plan, keys),
        drain_seconds=_GATEWAY_DRAIN_SECONDS,
    )
    return [*started, gateway]


def gateway_environment(plan: ServeOptions, keys: Path) -> dict[str, str]:
    """Settings of the gateway that this command decides; WINNOW_* of the environment and the file fill the rest."""
    environment = {
        "WINNOW_POLICY_URL": plan.policy_url or f"http://127.0.0.1:{plan.policy_port}",
        "WINNOW_SCORER_URL": plan.scorer_url or f"http://127.0.0.1:{plan.scorer_port}",
        "WINNOW_KEYS_FILE": str(keys),
        "WINNOW_PROFILE": plan.profile,
        "WINNOW_STATE_DIR": str(plan.state),
    }
    if plan.policy_url is None:
        environment["WINNOW_POLICY_MODEL"] = BUNDLED_MODEL if plan.model == "bundled" else plan.model
    return environment


def check(plan: ServeOptions) -> None:
    """SetupError for what would fail later: missing libraries, ports in use."""
    require_free_port(plan.host, plan.port, "--port")
    if plan.scorer_url is None:
        require_free_port("127.0.0.1", plan.scorer_port, "--scorer-port")
    if plan.policy_url is None:
        require_free_port("127.0.0.1", plan.policy_port, "--policy-port")
        is_cpu_build()


async def run(plan: ServeOptions) -> None:
    """Start everything, say how to use it, and stay until Ctrl-C or SIGTERM."""
    console = Console(stderr=True, highlight=False)
    check(plan)
    if plan.model == "bundled" and plan.policy_url is None:
        # Policy and scorer share these weights: prepared here, where a person sees the progress.
        await asyncio.to_thread(prepare_bundled)
    plan.state.mkdir(parents=True, exist_ok=True)
    keys = plan.state / "keys.json"
    key = add_key(keys, "demo", "admin", replace=True)
    supervisor = Supervisor(programs(plan, keys), lambda name, what: console.print(f"[bold]{name:8}[/] {what}"))
    _stop_on_signals(supervisor)
    console.print(f"Starting {', '.join(c.program.name for c in supervisor.children)}; logs in {plan.state / 'logs'}")
    heartbeat = asyncio.create_task(_heartbeat(console))
    try:
        await supervisor.start()
        heartbeat.cancel()
        if not supervisor.stopping.is_set():
            print(greeting(_base_url(plan), key, plan.profile), flush=True)
        await supervisor.watch()
        console.print("Stopping: the gateway finishes what it has, then the rest ends")
    except* SetupError as group:
        raise group.exceptions[0] from None
    finally:
        heartbeat.cancel()
        await supervisor.stop()


def greeting(url: str, key: str, profile: str) -> str:
    """What a person needs next."""
    note = ": every winner is sent, also one that a person should see first" if profile == "demo" else ""
    return f"""
Winnow is ready: {url}/v1 (metrics: {url}/metrics)

  curl {url}/v1/chat/completions \\
    -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
    -d '{{"model": "winnow", "messages": [{{"role": "user", "content": "I was charged twice this month. What now?"}}],
         "rerank": {{"return_candidates": true}}}}'

In any OpenAI client: base_url="{url}/v1", api_key="{key}", model="winnow".
The profile is `{profile}`{note}. Ctrl-C stops everything.
"""


def _base_url(plan: ServeOptions) -> str:
    host = "127.0.0.1" if plan.host in ("0.0.0.0", "::") else plan.host
    return f"http://[{host}]:{plan.port}" if ":" in host else f"http://{host}:{plan.port}"


def _stop_on_signals(supervisor: Supervisor) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, supervisor.stopping.set)


async def _heartbeat(console: Console) -> None:
    began = time.monotonic()
    while True:
        await asyncio.sleep(_HEARTBEAT_SECONDS)
        console.print(f"         still starting ({time.monotonic() - began:.0f} s)")
