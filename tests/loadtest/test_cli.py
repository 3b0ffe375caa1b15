"""`winnow loadtest` as a user runs it: exit codes, the JSON file, Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from loadtest.cli import loadtest_app

QUICK = ("--rate", "40", "--duration", "1", "--seed", "5")


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(loadtest_app, [*arguments])


def test_a_run_that_meets_its_objectives(server: Any, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    done = invoke(server.url, *QUICK, "--slo-p95-ms", "5000", "--slo-goodput-share", "1", "--out", str(out))
    assert done.exit_code == 0, done.output
    assert "Latency from the scheduled send time" in done.output
    record = json.loads(out.read_text())
    assert record["target"] == server.url
    assert record["workload"] == {
        "rate": 40.0,
        "duration_s": 1.0,
        "max_requests": 10_000,
        "high_stakes_share": 0.12,
        "seed": 5,
        "shape": "poisson",
    }
    assert record["answered"] == record["offered"] == len(server.seen) > 20
    assert [objective["met"] for objective in record["objectives"]] == [True] * 3
    assert record["latency_ms"]["high_stakes"]["n"] == round(0.12 * record["offered"])


def test_a_missed_objective_exits_with_1(server: Any) -> None:
    done = invoke(server.url, *QUICK, "--slo-p95-ms", "0.01")
    assert done.exit_code == 1
    assert "MISSED" in done.output


def test_a_sweep_finds_the_capacity_and_writes_a_page(server: Any, tmp_path: Path) -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        # Answers 60 requests of each run of a second, and refuses the others.
        window.append(time.monotonic())
        recent = [at for at in window if at > window[-1] - 1.0]
        return await server.reply(request) if len(recent) <= 60 else web.Response(status=429)

    window: list[float] = []
    server.handler = reply
    out, page = tmp_path / "result.json", tmp_path / "page.html"
    options = ("--sweep", "--rate", "20", "--duration", "1", "--out", str(out), "--html", str(page))
    done = invoke(server.url, *options)
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())["capacity"]
    assert [rate for rate, _ in found["steps"][:3]] == [20, 40, 80]
    assert 40 <= found["rate"] < 80
    assert f"{found['rate']:.2f} a second" in done.output
    text = page.read_text()
    assert f"Capacity: {found['rate']:.2f} a second" in text
    assert text.count("data:image/png;base64,") == 3
    assert "http" not in text.replace(server.url, ""), "nothing is loaded from elsewhere"


def test_a_page_tells_what_the_run_showed(server: Any, tmp_path: Path) -> None:
    page, out = tmp_path / "page.html", tmp_path / "result.json"
    done = invoke(server.url, *QUICK, "--slo-p95-ms", "0.01", "--html", str(page), "--out", str(out))
    assert done.exit_code == 1
    record, text = json.loads(out.read_text()), page.read_text()
    assert f"{record['offered']} requests in" in text
    assert "<li class=missed>p95_ms 0.01: measured" in text
    assert f"<td>{record['latency_ms']['all']['p95']:.0f}</td>" in text
    assert record["capacity"] is None


def test_errors_miss_the_default_objective(server: Any) -> None:
    async def reply(_: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    server.handler = reply
    done = invoke(server.url, *QUICK)
    assert done.exit_code == 1
    assert "http_503" in done.output


def test_json_on_stdout_leaves_it_parseable(server: Any) -> None:
    done = invoke(server.url, *QUICK, "--out", "-")
    assert json.loads(done.stdout)["error_rate"] == 0
    assert "Latency" in done.stderr


def test_a_key_from_the_environment_is_sent(server: Any, tmp_path: Path) -> None:
    done = CliRunner().invoke(loadtest_app, [server.url, *QUICK], env={"WINNOW_API_KEY": "k-123"})
    assert done.exit_code == 0
    assert set(server.authorization) == {"Bearer k-123"}
    assert "k-123" not in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-url",),
        ("http://127.0.0.1:1",),
        ("http://127.0.0.1:1", "--rate", "0"),
        ("http://127.0.0.1:1", "--rate", "nan"),
        ("http://127.0.0.1:1", "--high-stakes", "2"),
        ("http://127.0.0.1:1", "--slo-p95-ms", "nan"),
        ("http://127.0.0.1:1", "--timeout-s", "inf"),
        ("http://127.0.0.1:1", "--slo-error-rate", "1.2"),
        ("http://127.0.0.1:1", "--prompts", "/nowhere.jsonl"),
        ("http://127.0.0.1:1", "--out", "/nowhere/result.json"),
        (),
    ],
)
def test_bad_usage_and_silent_targets_exit_with_2(arguments: tuple[str, ...]) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert done.stderr.strip()
    assert "Traceback" not in done.output


def test_ctrl_c_stops_with_a_summary(server: Any, tmp_path: Path) -> None:
    async def reply(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0 if len(server.seen) == 1 else 60)
        response: web.StreamResponse = await server.reply(request)
        return response

    server.handler = reply
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", "service", "loadtest", server.url, "--rate", "20", "--out", str(out)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    give_up = time.monotonic() + 30
    while len(server.seen) < 3 and time.monotonic() < give_up:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=20)
    assert running.returncode == 130, stderr
    assert "Stopped early" in stdout
    record = json.loads(out.read_text())
    assert record["interrupted"]
    assert record["answered"] == 1
    assert record["cancelled"] == record["offered"] - 1 >= 1
