"""`winnow score`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from reward_model.console import clear_errors
from reward_model.errors import BadInput
from reward_model.offline.options import settings_of
from reward_model.serving.cli import load, say

if TYPE_CHECKING:
    from reward_model.offline.job import Job
    from reward_model.offline.rows import Defaults
    from reward_model.serving.settings import ScorerSettings

score_app = typer.Typer(add_completion=False)


@score_app.command()
def score(
    file: Annotated[str, typer.Argument(help="JSONL (may end in .gz, or be -) or Parquet of prompt and completions.")],
    model: Annotated[str | None, typer.Option(help="Reward model to load; the champion where none is named.")] = None,
    url: Annotated[str | None, typer.Option(help="Ask this scorer instead of loading a model.")] = None,
    registry: Annotated[Path | None, typer.Option(help="Folder of checkpoints beside the bundled ones.")] = None,
    device: Annotated[str | None, typer.Option(help="Device of a loaded model: auto, cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="Precision of a loaded model: auto, bf16 or fp32.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of a forward pass. Unset: the cores, shared by the workers.")
    ] = None,
    locale: Annotated[str | None, typer.Option(help="Picks the head for rows that name no `locale`.")] = None,
    route: Annotated[str | None, typer.Option(help="Picks the calibrator for rows that name no `route`.")] = None,
    out: Annotated[
        str, typer.Option(help="Where to write, in the format of the input; - is the standard output.")
    ] = "-",
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="This process, or a pool of Ray workers (extra `ray`).")
    ] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Ray workers, each with the model.")] = 2,
    gpus_per_worker: Annotated[
        float | None, typer.Option(min=0, help="GPUs of a Ray worker. Unset: 1 if the device is cuda, else 0.")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Cluster to run on, such as auto or ray-head:6379. Unset: one of its own, here.")
    ] = None,
    rows_per_part: Annotated[
        int, typer.Option(min=1, help="Rows that a Ray worker scores at a time, and that a run goes on from.")
    ] = 256,
) -> None:
    """Add scores and probabilities to each line of a file.

    A prompt is computed once for all its completions where the model allows it. A row's own `locale` picks the head,
    its `route` and `stopping_rule` the calibrator. Every setting of the scorer (WINNOW_SCORER_*) holds here too.

    A file that is named by --out is complete or absent. With --engine ray, or Parquet, finished parts are kept beside
    it in OUT.parts, and the same command goes on from them.
    """
    from reward_model.offline.job import plan
    from reward_model.offline.rows import Defaults

    defaults = Defaults(locale, route)
    with clear_errors():
        settings = settings_of(model=model, registry=registry, device=device, dtype=dtype, threads=threads)
        if url is not None and (engine == "ray" or file.endswith(".parquet")):
            raise BadInput("a running scorer (--url) is asked for the lines of JSONL by the local engine")
        if engine == "ray":
            _by_ray(plan(file, out, settings, defaults, rows_per_part), workers, gpus_per_worker, ray_address)
        elif file.endswith(".parquet"):
            _in_parts(plan(file, out, settings, defaults, rows_per_part))
        elif url is not None:
            from reward_model.offline.remote import remote_scores

            _write(remote_scores(file, url, defaults, settings.api_key), out)
        else:
            _write(_local(file, settings, defaults), out)


def _local(file: str, settings: ScorerSettings, defaults: Defaults) -> Iterator[dict[str, Any]]:
    from reward_model.offline.score import local_scores
    from reward_model.offline.scoring import PromptScorer

    with PromptScorer(load(settings), settings) as scorer:
        yield from local_scores(file, scorer, defaults, _say_progress)


def _in_parts(job: Job) -> None:
    """In this process."""
    from reward_model.offline.job import begun
    from reward_model.offline.scoring import PromptScorer

    with begun(job):
        done = _say_done(job)
        with PromptScorer(load(job.settings), job.settings) as scorer:
            for part in job.unfinished():
                job.score(scorer, part)
                done += part.rows
                _say_progress(done)
        job.finish()


def _by_ray(job: Job, workers: int, gpus: float | None, address: str | None) -> None:
    from reward_model.offline.job import begun
    from reward_model.offline.ray_engine import WorkerPool, score_parts, shared

    gpus, settings = shared(job.settings, workers, gpus)
    job = replace(job, settings=settings)
    with begun(job):
        before = _say_done(job)
        if parts := job.unfinished():
            pool = WorkerPool(workers, settings.threads or 1, gpus, address)
            score_parts(job, parts, pool, lambda rows: _say_progress(before + rows))
        job.finish()


def _say_done(job: Job) -> int:
    """How many rows an earlier run has finished; said where there are any."""
    left = job.unfinished()
    if done := len(job.parts) - len(left):
        say(f"{done} of {len(job.parts)} parts are finished already")
    return sum(part.rows for part in job.parts) - sum(part.rows for part in left)


def _write(lines: Iterable[dict[str, Any]], out: str) -> None:
    """To a stream as they come; a file appears when it is complete."""
    from reward_model.jsonl import json_line, open_text

    stays = out == "-" or (Path(out).exists() and not Path(out).is_file())
    scratch = out if stays else str(Path(out).with_name(f".writing-{Path(out).name}"))
    try:
        with open_text(scratch, "w") as stream:
            for line in lines:
                stream.write(json_line(line).decode())
        if not stays:
            Path(scratch).replace(out)
    finally:
        if not stays:
            Path(scratch).unlink(missing_ok=True)


def _say_progress(lines: int) -> None:
    say(f"{lines} lines scored")
