"""`winnow loadtest URL`.

Exits with 0 when every objective was met, 1 when one was missed, 2 on bad usage or a target that does not
answer, and 130 when it was stopped by hand (the summary of what ran is printed all the same).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.capacity import Sweep
from loadtest.capacity import sweep as find_capacity
from loadtest.client import Target
from loadtest.errors import LoadTestError
from loadtest.html import write_html
from loadtest.report import LoadLimits, LoadReport, render, summarise
from loadtest.run import LoadResult, run
from loadtest.workload import Arrival, Kind, Shape, Workload, load_prompts

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


ShapeOption = Annotated[
    Shape,
    typer.Option(help="poisson; burst: three times the rate for 2 s in every 10; ramp: from 0 to twice the rate."),
]
SweepOption = Annotated[
    bool, typer.Option("--sweep", help="Find the highest rate that meets the objectives, from --rate on.")
]
GoodputShareOption = Annotated[float | None, _share("Objective: share of answers within the deadline at least.")]
OutOption = Annotated[Path | None, typer.Option(callback=_writable, help="Write the result as JSON; `-` for stdout.")]


@loadtest_app.command()
def loadtest(
    url: Annotated[str, typer.Argument(help="Base URL of the gateway, with or without /v1.")],
    rate: Annotated[float, typer.Option(help="Mean arrivals a second.")] = 2.0,
    shape: ShapeOption = "poisson",
    sweep: SweepOption = False,
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
    slo_goodput_share: GoodputShareOption = None,
    html: Annotated[Path | None, typer.Option(callback=_writable, help="Write a page with plots there.")] = None,
    out: OutOption = None,
) -> None:
    """Load a gateway with seeded open-loop traffic and check its objectives.

    With --sweep each step is a run of --duration; the last one's figures are shown, and the capacity.

    Requests leave at their scheduled times whatever the server does, and latency counts from those times.
    """
    limits = LoadLimits(deadline_ms, slo_error_rate, slo_p95_ms, slo_high_stakes_p95_ms, slo_goodput_share)
    with _clear_errors():
        workload = Workload(rate, duration, max_requests, high_stakes, seed, shape)
        target = Target.parse(url, model=model, max_tokens=max_tokens, api_key=api_key)
        texts = load_prompts(prompts)
        found = asyncio.run(_LoadTest(target, workload, texts, limits, timeout_s).outcome(sweep))
        if html is not None:
            write_html(html, f"Load test of {target.base_url}", found.report, found.result, found.arrivals, found.swept)
    _write(found.report, target, workload, out, found.swept)
    raise typer.Exit(found.exit_code)


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except LoadTestError as error:
        typer.echo(f"winnow loadtest: {error}", err=True)
        raise typer.Exit(2) from error


@dataclass(frozen=True)
class _Run:
    """The last run that was made, and the sweep that it ended, if it was one."""

    report: LoadReport
    result: LoadResult
    arrivals: list[Arrival]
    swept: Sweep | None = None

    @property
    def exit_code(self) -> int:
        met = self.report.met if self.swept is None else self.swept.capacity is not None
        return 130 if self.report.interrupted else 0 if met else 1


@dataclass(frozen=True)
class _LoadTest:
    """What is sent where, and what it is held to."""

    target: Target
    workload: Workload
    texts: dict[Kind, list[str]]
    limits: LoadLimits
    timeout_s: float

    async def outcome(self, sweep: bool) -> _Run:
        """One run at the workload's rate; with `sweep`, runs from that rate on, of which the last is shown."""
        if not sweep:
            return await self._run_at(self.workload.rate)
        runs: list[_Run] = []

        async def report_at(rate: float) -> LoadReport:
            runs.append(await self._run_at(rate))
            return runs[-1].report

        swept = await find_capacity(report_at, self.workload.rate)
        return replace(runs[-1], swept=swept)

    async def _run_at(self, rate: float) -> _Run:
        arrivals = replace(self.workload, rate=rate).arrivals(self.texts)
        result = await _measure(self.target, arrivals, self.timeout_s)
        return _Run(summarise(result, self.limits), result, arrivals)


async def _measure(target: Target, arrivals: list[Arrival], timeout_s: float) -> LoadResult:
    """Run with progress on stderr; Ctrl-C (or SIGTERM) stops it with what there is."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("answered", total=len(arrivals))
        return await run(target, arrivals, timeout_s=timeout_s, stop=stop, on_done=lambda: progress.advance(bar))


def _write(report: LoadReport, target: Target, workload: Workload, out: Path | None, swept: Sweep | None) -> None:
    """The table to stdout, the JSON to `out`; with `-` the JSON has stdout and the table stderr."""
    to_stdout = out is not None and str(out) == "-"
    console = Console(stderr=to_stdout)
    console.print(render(report))
    if swept is not None:
        for step in swept.steps:
            console.print(f"{step.rate:.2f} a second: objectives {'met' if step.met else 'missed'}")
        found = "none of the rates tried" if swept.capacity is None else f"{swept.capacity:.2f} a second"
        console.print(f"Capacity, the highest rate that meets the objectives: {found}")
    if out is None:
        return
    record = {
        "target": target.base_url,
        "model": target.model,
        "workload": asdict(workload),
        **report.as_json(),
        "capacity": None
        if swept is None
        else {"rate": swept.capacity, "steps": [[s.rate, s.met] for s in swept.steps]},
    }
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    if to_stdout:
        sys.stdout.write(text)
    else:
        out.write_text(text, encoding="utf-8")
