"""`winnow score --engine ray`: the parts of a job, scored by a pool of Ray Data actors.

Ray Data hands out parts, restarts a worker that dies and gives its part to another. A part is a file that appears
whole, under a name that its number gives, so a part that is scored twice is still there once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from reward_model.errors import PreparationError, RewardModelError
from reward_model.offline.job import Job
from reward_model.offline.parts import Part
from reward_model.offline.scoring import PromptScorer
from reward_model.serving.settings import ScorerSettings

# Ray replaces a dead worker for ever. A part that so many have died of is at fault itself.
_TRIES = 5
# Parts are handed out one by one up to so many, then a few at a time.
_MOST_BLOCKS = 2_000
_OBJECT_STORE_BYTES = 100_000_000


class WorkerPool(NamedTuple):
    """Workers, the CPU threads and GPUs of each, and the cluster they run on (None: one of their own)."""

    workers: int
    threads: int
    gpus: float = 0
    address: str | None = None


class Worker:
    """An actor with a model, which Ray replaces if it dies.

    It returns errors that are meant for a person: Ray would wrap them.
    """

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score the parts of a batch; `error` is empty where that went well."""
        parts = [Part(*map(int, values)) for values in zip(*(batch[name] for name in Part._fields), strict=True)]
        return {"rows": batch["rows"], "error": [self._error(part) for part in parts]}

    def score(self, part: Part) -> None:
        """Score a part."""
        self.job.score(self._scorer, part)

    @cached_property
    def _scorer(self) -> PromptScorer:
        from reward_model.serving.engine import load_configured
        from reward_model.serving.memory import keep_freed_memory

        keep_freed_memory()
        # Open as long as the process lives.
        return PromptScorer(load_configured(self.job.settings), self.job.settings).__enter__()

    def _error(self, part: Part) -> str:
        tries = _tries(self.job, part)
        if (tried := tries.stat().st_size if tries.exists() else 0) == _TRIES:
            return f"{tried} workers have died of the part from row {part.first} on; has each enough memory?"
        with tries.open("ab") as stream:
            stream.write(b".")
        try:
            self.score(part)
        except RewardModelError as error:
            return str(error)
        tries.unlink(missing_ok=True)
        return ""


def _tries(job: Job, part: Part) -> Path:
    """A byte for each time that the part was begun."""
    target = job.target(part.number)
    return target.with_name(f".{target.name}.tries")


def score_parts(
    job: Job, parts: Sequence[Part], pool: WorkerPool, progress: Callable[[int], None], worker: type[Worker] = Worker
) -> None:
    """Score parts of a job; `progress` is told how many rows are.

    Raises RewardModelError with what a worker said of a part, or where Ray cannot go on. Finished parts stay.
    """
    for part in parts:
        _tries(job, part).unlink(missing_ok=True)
    with _connected(job, pool):
        import ray

        blocks = min(len(parts), _MOST_BLOCKS)
        scored = ray.data.from_items([part._asdict() for part in parts], override_num_blocks=blocks).map_batches(
            worker,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=pool.workers),
            num_cpus=pool.threads,
            num_gpus=pool.gpus,
        )
        done = 0
        try:
            for result in scored.iter_rows():
                if result["error"]:
                    raise RewardModelError(result["error"])
                done += result["rows"]
                progress(done)
        except ray.exceptions.RayError as error:
            raise RewardModelError(
                f"Ray gave up: {str(error).strip().splitlines()[-1]}. Finished parts are kept: run this again"
            ) from error


def shared(settings: ScorerSettings, workers: int, gpus: float | None) -> tuple[float, ScorerSettings]:
    """The GPUs of each worker, and the settings of each: this machine's cores and GPUs shared among them."""
    import torch

    if gpus is None:
        gpus = float(settings.device.startswith("cuda") or (settings.device == "auto" and torch.cuda.is_available()))
    # Ray shows a worker its own GPUs alone.
    device = "cuda" if gpus else "cpu"
    threads = settings.threads or max(1, len(os.sched_getaffinity(0)) // workers)
    return gpus, settings.model_copy(update={"device": device, "threads": threads})


@contextmanager
def _connected(job: Job, pool: WorkerPool) -> Iterator[None]:
    """A connection to the pool's cluster, or one of its own that ends with the block, or with this process."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray's own processes say on stderr what is no concern of the user's.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    if pool.address is None:
        # Nobody else may use this run's cluster. Left to itself, Ray writes a token of its own into the home folder.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ModuleNotFoundError as error:
        raise PreparationError("Ray is not installed: pip install 'winnow-rerank[orm,ray]'") from error
    folder = _session_folder(job)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _connect(pool, folder)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _connect(pool: WorkerPool, folder: Path) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    own: dict[str, Any] = {"num_cpus": pool.workers * pool.threads, "num_gpus": None if pool.gpus else 0}
    own |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES, "_temp_dir": str(folder)}
    try:
        ray.init(address=pool.address or "local", **quiet, **({} if pool.address else own))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RewardModelError(f"Ray cannot be started or reached: {error}") from error


def _session_folder(job: Job) -> Path:
    """Short, since sockets lie in it; of the job, so that a run clears what a killed one left."""
    name = hashlib.sha256(str(job.folder).encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"winnow-ray-{name}"
