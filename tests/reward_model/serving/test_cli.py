"""`winnow scorer` as a process: loads, serves, stops; and says what is wrong with its options."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from reward_model.serving.cli import scorer_app


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_process_serves_a_registrys_champion_and_stops_when_asked(checkpoint: Path) -> None:
    registry, port = checkpoint.parents[1], _free_port()
    (registry / "aliases.json").write_text('{"champion": "tiny@1"}')
    process = subprocess.Popen(
        [sys.executable, "-c", "from reward_model.serving.cli import scorer_app; scorer_app()", "--threads", "1"],
        env=os.environ | {"WINNOW_SCORER_REGISTRY": str(registry), "WINNOW_SCORER_PORT": str(port)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        body = {"prompt": [{"role": "user", "content": "hi"}], "completions": ["hello"], "orm": "champion"}
        for _ in range(1200):
            try:
                reply = httpx.post(f"http://127.0.0.1:{port}/v1/score", json=body, timeout=10)
                break
            except httpx.ConnectError:
                assert process.poll() is None, process.stderr and process.stderr.read()
                time.sleep(0.1)
        assert reply.json()["orm"] == "tiny@1"
    finally:
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert "Loading champion" in said
    assert "Loaded tiny@1" in said
    assert "calibrator none: probabilities are null" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "70000"], "port"),
        (["--dtype", "int8"], "dtype"),
        (["--model", "nothing"], "no reward model is called 'nothing'"),
        (["--device", "cuda:77"], "the device 'cuda:77' cannot be used"),
        (["--device", "gpu"], "the device 'gpu' cannot be used"),
    ],
)
def test_bad_options_are_said_without_a_traceback(arguments: list[str], said: str) -> None:
    ran = CliRunner().invoke(scorer_app, arguments)
    assert ran.exit_code == 2
    assert said in ran.stderr.splitlines()[-1]
