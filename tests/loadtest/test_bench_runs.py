"""The benchmarks themselves, briefly, without peers: real gateway and scorer, figures that must hold on any machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def bench(*arguments: str) -> Any:
    done = subprocess.run([sys.executable, "-m", "service", "bench", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the gateway needs a core to itself")
def test_a_gateway_costs_time_and_the_router_is_part_of_it(tmp_path: Path) -> None:
    peers = [part for name in ("LiteLLM", "vllm-router", "its_hub") for part in ("--without", name)]
    found = bench("gateway", "--rounds", "3", "--logs", str(tmp_path), *peers)["contestants"]
    assert found["direct"]["latency_ms"] < found["winnow, nothing to route"]["latency_ms"]
    assert 0 < found["winnow"]["route_ms"] < found["winnow"]["added_ms"]
    assert found["winnow, nothing to route"]["per_second"] > found["winnow"]["per_second"]


def test_budgets_are_measured_at_and_above_a_capacity_that_was_found(tmp_path: Path) -> None:
    pace = ("--step-ms", "5", "--prefill-ms", "10", "--max-tokens", "24")
    found = bench("deadline", "--duration", "5", "--budget-ms", "1500", "--rate", "2", *pace, "--logs", str(tmp_path))
    assert found["capacity"] > 0
    assert [run["of_capacity"] for run in found["runs"]] == [0.8, 1.0, 1.5]
    assert all(run["errors"] == {} for run in found["runs"])


def test_a_random_model_is_served_and_loaded(tmp_path: Path) -> None:
    words = ("--prompt-words", "40", "--completion-words", "20", "--word-ms", "2")
    where = ("--folder", str(tmp_path / "model"), "--logs", str(tmp_path))
    found = bench("scorer", "--device", "cpu", "--shape", "135m", "--rates", "0.5,1", "--duration", "5", *words, *where)
    assert [load["rate"] for load in found["loads"]] == [0.5, 1]
    assert all(load["failed"] == 0 and load["requests"] > 0 for load in found["loads"])
    assert all(0 < load["roofline_share"] < 1 for load in found["loads"])
    assert found["loads"][1]["p95_ms"] > 0
