"""`winnow serve`: policy, scorer and gateway on one machine, up to a curl command that works."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from service.errors import SetupError
from service.identity import EVERY_TENANT
from service.keys.key_file import add_key
from service.processes.policy import is_cpu_build, prepare_bundled
from service.processes.policy_model import BUNDLED, context_length
from service.processes.progress import Progress
from service.processes.served_models import served_models
from service.processes.stack import ServeOptions, Stack, plan
from service.processes.supervisor import Supervisor


async def run(options: ServeOptions) -> int:
    """Start everything, say how to use it, and stay until Ctrl-C or SIGTERM.

    The exit code is 0 if the gateway finished what it had. Raises SetupError for what must be put right first.
    """
    progress = Progress(Console(stderr=True, highlight=False))
    stack = plan(options, served_models)
    with _sole_user(stack.state):
        stack.require_free_ports()
        await _prepare(options, stack, progress)
        key = _demo_key(stack) if stack.own_keys else None
        return await _supervise(stack, key, progress)


async def _prepare(options: ServeOptions, stack: Stack, progress: Progress) -> None:
    """What would fail, or take long, in a process's log."""
    if any(program.name == "policy" for program in stack.programs):
        is_cpu_build()
        if options.model not in (None, BUNDLED):
            await asyncio.to_thread(context_length, options.model)
    if stack.bundled_policy:
        # Policy and scorer share these weights: prepared here, where a person sees the progress.
        await asyncio.to_thread(prepare_bundled)
    for note in stack.notes:
        progress.note(note)


async def _supervise(stack: Stack, key: str | None, progress: Progress) -> int:
    supervisor = Supervisor(stack.programs, progress.say)
    _stop_on_signals(supervisor)
    names = ", ".join(program.name for program in stack.programs)
    progress.note(f"Starting {names}; logs in {stack.state / 'logs'}")
    try:
        async with progress.starting(supervisor.children):
            await supervisor.start()
        if not supervisor.stopping.is_set():
            print(greeting(stack, key), flush=True)
        await supervisor.watch()
        progress.note(
            f"Stopping: requests in flight have up to {stack.drain_seconds:.0f} s; press Ctrl-C again to stop at once"
        )
    except* SetupError as group:
        raise group.exceptions[0] from None
    finally:
        await supervisor.stop()
    return 0 if supervisor.children[-1].exit_code == 0 else 1


def greeting(stack: Stack, key: str | None) -> str:
    """What a person needs next."""
    url = stack.url
    note = ": every winner is sent, also one that a person should see first" if stack.profile == "demo" else ""
    shown = key or "$WINNOW_KEY"
    quote = "'" if key else '"'
    source = f'api_key="{key}"' if key else f"a key of {stack.keys_file} as api_key"
    return f"""
Winnow is ready: {url}/v1 (metrics: {url}/metrics)

  curl {url}/v1/chat/completions \\
    -H {quote}Authorization: Bearer {shown}{quote} -H 'Content-Type: application/json' \\
    -d '{{"model": "winnow", "messages": [{{"role": "user", "content": "I was charged twice this month. What now?"}}],
         "rerank": {{"return_candidates": true}}}}'

In any OpenAI client: base_url="{url}/v1", {source}, model="winnow".
The profile is `{stack.profile}`{note}. Ctrl-C stops everything.
"""


@contextmanager
def _sole_user(state: Path) -> Iterator[None]:
    """Hold the state folder's lock; SetupError if another `winnow serve` does."""
    state.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(state / "serve.lock"), state / "serve.pid"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        pid = owner.read_text().strip() if owner.exists() else "unknown"
        raise SetupError(
            f"another `winnow serve` (process {pid}) uses the state folder {state}: stop it, or name another folder "
            "with --state"
        ) from error
    try:
        owner.write_text(f"{os.getpid()}\n")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _stop_on_signals(supervisor: Supervisor) -> None:
    def stop() -> None:
        if supervisor.stopping.is_set():
            supervisor.at_once.set()
        supervisor.stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


def _demo_key(stack: Stack) -> str:
    """One machine, one company: the key sees everything here."""
    return add_key(stack.keys_file, "demo", "admin", replace=True, tenants=[EVERY_TENANT])
