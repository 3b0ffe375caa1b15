"""`winnow loadtest URL`.

Exits with 0 when every objective was met, 1 when one was missed, 2 on bad usage or a target that does not
answer, and 130 when it was stopped by hand (the summary of what ran is printed all the same).
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.client import Target
from loadtest.errors import LoadTestError
from loadtest.report import Limits, Report, render, summarise
from loadtest.run import Result, run
from loadtest.workload import Arrival, Workload, load_prompts

loadtest_app = typer.Typer(add_completion=False)


def _finite(value: float | None) -> float | None:
    """Refuse `nan` and `inf`, which pass a range check."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def _writable(path: Path | None) -> Path | None:
    """Refuse a file that cannot be written before the run, not after it."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise typer.BadParameter(f"{path} cannot be written: not a file in an existing folder")
    return path


def _above_zero(help_text: str) -> Any:
    return typer.Option(min=0.001, callback=_finite, help=help_text)


def _share(help_text: str) -> Any:
    return typer.Option(min=0, max=1, callback=_finite, help=help_text)


@loadtest_app.command()
def loadtest(
    url: Annotated[str, typer.Argument(help="Base URL of the gateway, with or without /v1.")],
    rate: Annotated[float, typer.Option(help="Mean arrivals a second (Poisson).")] = 2.0,
    duration: Annotated[float, typer.Option(help="Seconds during which requests arrive.")] = 30.0,
    max_requests: Annotated[int, typer.Option(help="Stop sending after this many.")] = 10_000,
    high_stakes: Annotated[float, typer.Option(help="Share of billing and fraud prompts.")] = 0.12,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same requests at the same times.")] = 0,
    prompts: Annotated[Path | None, typer.Option(help='Own prompts: JSON lines {"kind", "text"}.')] = None,
    model: Annotated[str, typer.Option(help="Model named in each request.")] = "winnow",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest completion asked for.")] = 96,
    api_key: Annotated[str | None, typer.Option(envvar="WINNOW_API_KEY", help="Bearer key.")] = None,
    timeout_s: Annotated[float, _above_zero("Give a request up after this long.")] = 60.0,
    deadline_ms: Annotated[float, _above_zero("Later answers are no goodput.")] = 30_000.0,
    slo_error_rate: Annotated[float, _share("Objective: share of errors at most.")] = 0.01,
    slo_p95_ms: Annotated[float | None, _above_zero("Objective: p95 at most.")] = None,
    slo_high_stakes_p95_ms: Annotated[float | None, _above_zero("Objective: p95 of billing and fraud at most.")] = None,
    slo_goodput_share: Annotated[
        float | None, _share("Objective: share of answers within the deadline at least.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(callback=_writable, help="Write the result as JSON; `-` for stdout.")
    ] = None,
) -> None:
    """Load a gateway with seeded open-loop traffic and check its objectives.

    Requests leave at their scheduled times whatever the server does, and latency counts from those times.
    """
    limits = Limits(deadline_ms, slo_error_rate, slo_p95_ms, slo_high_stakes_p95_ms, slo_goodput_share)
    try:
        workload = Workload(rate, duration, max_requests, high_stakes, seed)
        target = Target.parse(url, model=model, max_tokens=max_tokens, api_key=api_key)
        arrivals = workload.arrivals(load_prompts(prompts))
        result = asyncio.run(_measure(target, arrivals, timeout_s))
    except LoadTestError as error:
        typer.echo(f"winnow loadtest: {error}", err=True)
        raise typer.Exit(2) from error
    report = summarise(result, limits)
    _write(report, target, workload, out)
    raise typer.Exit(130 if report.interrupted else 0 if report.met else 1)


async def _measure(target: Target, arrivals: list[Arrival], timeout_s: float) -> Result:
    """Run with progress on stderr; Ctrl-C (or SIGTERM) stops it with what there is."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("answered", total=len(arrivals))
        return await run(target, arrivals, timeout_s=timeout_s, stop=stop, on_done=lambda: progress.advance(bar))


def _write(report: Report, target: Target, workload: Workload, out: Path | None) -> None:
    """The table to stdout, the JSON to `out`; with `-` the JSON has stdout and the table stderr."""
    to_stdout = out is not None and str(out) == "-"
    Console(stderr=to_stdout).print(render(report))
    if out is None:
        return
    record = {
        "target": target.base_url,
        "model": target.model,
        "workload": asdict(workload),
        **report.as_json(),
    }
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    if to_stdout:
        sys.stdout.write(text)
    else:
        out.write_text(text, encoding="utf-8")
