"""Whether `budget_ms` holds under load: the real gateway and scorer, and a policy that only keeps time.

First the capacity: the highest rate at which at most one answer in a hundred is degraded by its deadline. Then the same
load at 0.8, 1.0 and 1.5 of it: above capacity answers get worse, and must not get late.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from loadtest.bench.fake_policy import MODEL, Pace
from loadtest.bench.processes import free_port, served
from loadtest.capacity import sweep
from loadtest.client import Target
from loadtest.report import LoadLimits, LoadReport, Objective, summarise
from loadtest.run import run as load
from loadtest.workload import Workload, load_prompts

LOADS = (0.8, 1.0, 1.5)
_DEGRADED = 0.01
# What the network and the client's own work may add before an answer counts as late.
_ALLOWANCE_MS = 50.0


@dataclass(frozen=True)
class DeadlineSetup:
    """The load: seconds of a run, the requests' budget, their tokens, the first rate that is tried."""

    duration_s: float
    budget_ms: int
    max_tokens: int
    start: float
    pace: Pace


def run(setup: DeadlineSetup, logs: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure. Raises BenchError when a server does not start."""
    with ExitStack() as stack:
        target = _start(stack, setup, logs)
        return asyncio.run(_measure(setup, target, say))


async def _measure(setup: DeadlineSetup, target: Target, say: Callable[[str], None]) -> dict[str, Any]:
    prompts = load_prompts(None)

    async def at(rate: float, seed: int = 0) -> LoadReport:
        # Every request is reranked: the others cost the scorer nothing.
        arrivals = Workload(rate, setup.duration_s, high_stakes_share=1.0, seed=seed).arrivals(prompts)
        result = await load(target, arrivals, timeout_s=setup.budget_ms / 1e3 + 30, stop=asyncio.Event())
        report = summarise(result, LoadLimits(setup.budget_ms + _ALLOWANCE_MS))
        degraded = _by_load(report.degraded) / max(1, report.answered)
        say(f"{rate:.2f} a second: {1 - report.goodput_share:.1%} late or failed, {degraded:.1%} degraded")
        objective = Objective("degraded_share", _DEGRADED, degraded, degraded <= _DEGRADED and not report.errors)
        return replace(report, objectives=[objective])

    found = await sweep(at, setup.start)
    runs = {}
    if found.capacity is not None:
        # Another seed than the one that the capacity was found with.
        runs = {load_: await at(load_ * found.capacity, seed=1) for load_ in LOADS}
    return {
        "setup": asdict(setup),
        "capacity": found.capacity,
        "sweep": [[step.rate, step.met] for step in found.steps],
        "runs": [{"of_capacity": load_, **_figures(report)} for load_, report in runs.items()],
    }


def _by_load(degraded: Mapping[str, int]) -> int:
    """Degraded answers, but for those whose probability does not hold: of a fake policy none does, at any load."""
    return sum(count for reason, count in degraded.items() if reason != "calibration_mismatch")


def _figures(report: LoadReport) -> dict[str, Any]:
    return {
        "rate": report.offered_per_s,
        "requests": report.offered,
        "late_or_failed": 1 - report.goodput_share,
        "latency_ms": report.latency_ms["all"],
        "scoring_tail_ms": report.stages_ms.get("scoring_tail", {}),
        "degraded": report.degraded,
        "errors": report.errors,
    }


def _start(stack: ExitStack, setup: DeadlineSetup, logs: Path) -> Target:
    ports = [free_port() for _ in range(3)]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    pace = [part for name, value in asdict(setup.pace).items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "loadtest.bench.fake_policy", "--port", str(ports[0]), *pace]
    stack.enter_context(served("policy", command, urls[0], "/health", logs / "policy.log"))
    winnow = [sys.executable, "-m", "service"]
    command = [*winnow, "scorer", "--port", str(ports[1])]
    stack.enter_context(served("scorer", command, urls[1], "/readyz", logs / "scorer.log"))
    keys = logs / "keys.json"
    made = subprocess.run([*winnow, "key", "bench", "--keys", str(keys)], capture_output=True, text=True, check=True)
    environment = {"WINNOW_PROFILE": "demo", "WINNOW_KEYS_FILE": str(keys), "WINNOW_POLICY_MODEL": MODEL}
    environment |= {"WINNOW_POLICY_URL": urls[0], "WINNOW_SCORER_URL": urls[1]}
    environment |= {"WINNOW_MAX_INFLIGHT_CANDIDATES": "100000", "WINNOW_CONCURRENT_CANDIDATES": "100000"}
    environment |= {"WINNOW_TOKENS_PER_MINUTE": "1000000000"}
    environment |= {"WINNOW_REQUESTS_PER_MINUTE": "1000000", "WINNOW_STATE_DIR": str(logs)}
    environment |= {f"WINNOW_ROUTES__{route}__BUDGET_MS": str(setup.budget_ms) for route in ("BILLING", "FRAUD")}
    command = [*winnow, "gateway", "--port", str(ports[2])]
    stack.enter_context(served("gateway", command, urls[2], "/readyz", logs / "gateway.log", environment))
    return Target.parse(urls[2], model="winnow", max_tokens=setup.max_tokens, api_key=made.stdout.strip())


def table(found: dict[str, Any]) -> str:
    """Markdown: a row for each load."""
    rows = [
        "| load | requests a second | late or failed | p50 | p95 | p99 | degraded |",
        "|---|---|---|---|---|---|---|",
    ]
    for run_ in found["runs"]:
        latency = run_["latency_ms"]
        times = " | ".join(f"{latency[name]:.0f} ms" for name in ("p50", "p95", "p99"))
        degraded = _by_load(run_["degraded"]) / max(1, run_["requests"])
        rows.append(
            f"| {run_['of_capacity']:g} of capacity | {run_['rate']:.2f} | {run_['late_or_failed']:.1%} | {times} "
            f"| {degraded:.1%} |"
        )
    return "\n".join(rows)
