"""Numbers worked out by hand."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from loadtest.client import RequestOutcome
from loadtest.report import LoadLimits, Objective, render, spread, summarise
from loadtest.run import LoadResult

NO_LIMITS = LoadLimits(deadline_ms=1000)


def result(*outcomes: RequestOutcome, elapsed_s: float = 10.0, interrupted: bool = False) -> LoadResult:
    return LoadResult(list(outcomes), elapsed_s, interrupted)


def test_percentiles_lie_linearly_between_ranks() -> None:
    # Rank of quantile q among n values is q (n - 1): 0.95 * 99 = 94.05 -> 95 + 0.05 * (96 - 95).
    found = spread([float(value) for value in range(100, 0, -1)])
    assert found == pytest.approx({"n": 100, "mean": 50.5, "p50": 50.5, "p95": 95.05, "p99": 99.01, "max": 100})
    assert spread([]) == {"n": 0}
    assert spread([7.0]) == {"n": 1, "mean": 7, "p50": 7, "p95": 7, "p99": 7, "max": 7}


def test_goodput_errors_and_latency() -> None:
    report = summarise(
        result(
            RequestOutcome("default", 200, 1, completion_tokens=5),
            RequestOutcome("default", 1000, 0, completion_tokens=6),
            RequestOutcome("billing", 1001, 0, completion_tokens=80),
            RequestOutcome("fraud", 3000, 0, error="timeout"),
            RequestOutcome("default", 2, 0, error="http_429"),
            RequestOutcome("default", 0, 0, error="cancelled"),
        ),
        NO_LIMITS,
    )
    assert (report.offered, report.answered, report.cancelled, report.completion_tokens) == (6, 3, 1, 91)
    assert report.goodput_per_s == pytest.approx(0.2), "two answers within 1,000 ms in 10 s"
    assert report.goodput_share == pytest.approx(2 / 5)
    assert report.error_rate == pytest.approx(2 / 5)
    assert report.errors == {"timeout": 1, "http_429": 1}
    assert report.latency_ms["all"]["n"] == 4, "the timeout counts, the instant 429 would flatter"
    assert report.latency_ms["all"]["max"] == 3000
    assert report.latency_ms["high_stakes"]["n"] == 2
    assert report.latency_ms["default"]["p50"] == 600


def test_routes_decisions_and_stages_are_told_by_kind() -> None:
    report = summarise(
        result(
            RequestOutcome("billing", 9, 0, None, "billing", "accept", None, 1, {"route": 1.0, "sampling": 8.0}),
            RequestOutcome("billing", 9, 0, None, "default", "passthrough", "deadline", 1, {"route": 3.0}),
            RequestOutcome("default", 9, 0),
        ),
        NO_LIMITS,
    )
    assert report.routes == {"billing": {"billing": 1, "default": 1}, "fraud": {}, "default": {}}
    assert report.decisions["billing"] == {"accept": 1, "passthrough": 1}
    assert report.degraded == {"deadline": 1}
    assert report.stages_ms["route"] == pytest.approx({"n": 2, "mean": 2, "p50": 2, "p95": 2.9, "p99": 2.98, "max": 3})
    assert report.stages_ms["sampling"]["n"] == 1


def test_objectives_met_at_the_limit_and_missed_above_it() -> None:
    run = result(RequestOutcome("billing", 100, 0), RequestOutcome("default", 300, 0))
    limits = LoadLimits(250, error_rate=0, p95_ms=290, high_stakes_p95_ms=100, goodput_share=0.5)
    report = summarise(run, limits)
    assert report.objectives == [
        Objective("error_rate", 0, 0, True),
        Objective("p95_ms", 290, 290, True),
        Objective("high_stakes_p95_ms", 100, 100, True),
        Objective("goodput_share", 0.5, 0.5, True),
    ]
    assert report.met
    assert not summarise(run, LoadLimits(250, p95_ms=289.9)).met
    assert not summarise(run, LoadLimits(250, goodput_share=0.51)).met


def test_an_objective_without_a_measurement_is_missed() -> None:
    run = result(RequestOutcome("billing", 1, 0, error="http_503"))
    report = summarise(run, LoadLimits(1000, error_rate=1, high_stakes_p95_ms=1000))
    assert [objective.met for objective in report.objectives] == [True, False]


def test_a_run_stopped_before_any_answer_can_be_told() -> None:
    report = summarise(
        result(RequestOutcome("billing", 0, 0, error="cancelled"), interrupted=True), LoadLimits(1, 0.01)
    )
    assert (report.answered, report.error_rate, report.objectives) == (0, 0, [])
    json.dumps(report.as_json(), allow_nan=False)


def test_the_table_names_what_was_missed() -> None:
    report = summarise(
        result(RequestOutcome("billing", 100, 0, None, "billing", "accept", None, 1, {"sampling": 5.0})),
        LoadLimits(50, error_rate=0.01, p95_ms=99),
    )
    console = Console(record=True, width=100, file=None, quiet=False)
    with console.capture() as shown:
        console.print(render(report))
    text = shown.get()
    assert "Objective p95_ms 99: measured 100, MISSED" in text
    assert "Objective error_rate 0.01: measured 0, met" in text
    assert "sampling" in text
    assert "accept 1" in text
