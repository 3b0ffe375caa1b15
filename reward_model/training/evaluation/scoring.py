"""Scores of labelled replies through the path that serves: POST /v1/score of a running scorer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
from numpy.typing import NDArray

from reward_model.errors import PreparationError, RewardModelError
from reward_model.labels import LabelledReply, as_completion

Floats = NDArray[np.float64]
# What calibration needs of a model: the raw score of each reply.
Score = Callable[[Sequence[LabelledReply]], Floats]

# The scorer's own setting: the key that its callers must send.
API_KEY_VARIABLE = "WINNOW_SCORER_API_KEY"

_READY_SECONDS = 180.0
_DRAIN_SECONDS = 30.0
_AT_A_TIME = 4
# A scorer that serves others too may be full for a while.
_PATIENCE_SECONDS = 120.0
# The scorer as a process that the kernel ends (SIGTERM) with the one that started it: prctl(PR_SET_PDEATHSIG).
_SCORER = ["-m", "service"]
_BOUND_SCORER = [
    "-c",
    "import ctypes, runpy; ctypes.CDLL(None).prctl(1, 15); runpy.run_module('service', None, '__main__', True)",
]


def scored_by(url: str, orm: str, api_key: str | None = None, *, partial: bool = False) -> Score:
    """A scorer at `url`, pinned to the checkpoint `orm`; RewardModelError when it answers anything but scores of it.

    `partial`: the completions are parts of longer ones.
    """

    def score(replies: Sequence[LabelledReply]) -> Floats:
        prompts: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, reply in enumerate(replies):
            prompts[reply.prompt_key()].append(number)
        scores = np.zeros(len(replies))
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        with (
            httpx.Client(base_url=url, timeout=300, headers=headers) as client,
            ThreadPoolExecutor(_AT_A_TIME) as pool,
        ):
            asked = pool.map(
                lambda members: _ask(client, orm, [replies[i] for i in members], partial=partial), prompts.values()
            )
            for members, found in zip(prompts.values(), asked, strict=True):
                scores[members] = found
        return scores

    return score


def _ask(client: httpx.Client, orm: str, replies: Sequence[LabelledReply], *, partial: bool) -> list[float]:
    first = replies[0]
    completions = [as_completion(reply.completion).model_dump(exclude_none=True) for reply in replies]
    body = {
        "prompt": [message.model_dump(exclude_none=True) for message in first.prompt],
        "completions": completions,
        "orm": orm,
        "locale": first.locale,
        "partial": partial,
    }
    answer = _post(client, body)
    if answer.status_code != 200:
        raise RewardModelError(f"the scorer at {client.base_url} answered {answer.status_code}: {answer.text[:300]}")
    found: dict[str, Any] = answer.json()
    if found["orm"] != orm:
        raise RewardModelError(f"the scorer at {client.base_url} serves {found['orm']}, not {orm}")
    return [result["score"] for result in sorted(found["results"], key=lambda result: result["index"])]


def _post(client: httpx.Client, body: dict[str, Any]) -> httpx.Response:
    """The scorer's answer; while it is overloaded it is asked again, when it says so."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            answer = client.post("/v1/score", json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RewardModelError(f"the scorer at {client.base_url} did not answer: {type(error).__name__}") from error
        wait = float(answer.headers.get("retry-after", 1))
        if answer.status_code != 503 or time.monotonic() + wait > until:
            return answer
        time.sleep(wait)


@contextmanager
def own_scorer(checkpoint: Path) -> Iterator[str]:
    """A scorer that serves the checkpoint while the block runs; yields its URL.

    No process is left behind: it is stopped on the way out, and on Linux the kernel stops it when this process is
    killed. Raises PreparationError when it does not become ready, with what it said.
    """
    port = _free_port()
    command = [sys.executable, *(_BOUND_SCORER if sys.platform == "linux" else _SCORER), "scorer"]
    command += ["--model", str(checkpoint.resolve()), "--host", "127.0.0.1", "--port", str(port)]
    # What the operator's own scorer is set to (a key, say) is not for this one; its precision is.
    environment = {name: value for name, value in os.environ.items() if name != API_KEY_VARIABLE}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=environment
        )
        try:
            _wait_until_ready(process, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(_DRAIN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: IO[str]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log.seek(0)
            raise PreparationError(f"the scorer ended before it was ready: {log.read().strip()[-500:]}")
        try:
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise PreparationError(f"the scorer was not ready after {_READY_SECONDS:.0f} s")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
