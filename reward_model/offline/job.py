"""One file to be scored in parts: what it is, which parts are done, and the output that appears when all are.

Finished parts lie in `OUT.parts/`, each renamed into place when it is whole, beside a record of the input, the model
and the options that they came from. A run that is started again goes on from them, or refuses where any of that
changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from reward_model.errors import BadInput, UnknownModel
from reward_model.offline.parts import Format, Part, format_of, whole
from reward_model.offline.rows import Defaults
from reward_model.offline.score import score_rows
from reward_model.offline.scoring import PromptScorer
from reward_model.registry.placing import digests
from reward_model.registry.registry import resolve
from reward_model.serving.settings import ScorerSettings

_RECORD = "job.json"
# What may change a score. Threads and batches move it by rounding alone.
_OPTIONS = {"device", "dtype", "max_sequence_tokens"}


@dataclass(frozen=True)
class Job:
    """A file, where its scores go, and how they are computed. Every process of a run has the same one."""

    path: Path
    out: Path
    settings: ScorerSettings
    defaults: Defaults
    parts: list[Part]

    @property
    def format(self) -> Format:
        """Of the input, and so of the output."""
        return format_of(self.path.name)

    @property
    def folder(self) -> Path:
        """Where finished parts lie."""
        return self.out.with_name(f"{self.out.name}.parts")

    def target(self, number: int) -> Path:
        """Where a part lies when it is finished."""
        return self.folder / f"{number:06d}{self.format.suffix}"

    def unfinished(self) -> list[Part]:
        """The parts that are still to be scored."""
        return [part for part in self.parts if not self.target(part.number).exists()]

    def score(self, scorer: PromptScorer, part: Part) -> None:
        """Score a part and put it in its place, whole or not at all; nothing if it is there."""
        target = self.target(part.number)
        if target.exists():
            return
        rows = self.format.read(self.path, part, self.defaults)
        added = score_rows(scorer, rows)
        # Its own name for each process: one that is taken for dead may still be writing.
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        self.format.write(scratch, rows, self.path, part, added)
        scratch.replace(target)

    def finish(self) -> None:
        """Write the output from the parts, and remove them."""
        targets = [self.target(part.number) for part in self.parts]
        whole(self.path, self.out, self.format, targets, sum(part.rows for part in self.parts))
        shutil.rmtree(self.folder)


def plan(path: str, out: str, settings: ScorerSettings, defaults: Defaults, rows: int) -> Job:
    """The job, its file read once for where its parts begin; BadInput where it cannot be done in parts."""
    if path == "-" or path.endswith(".gz"):
        raise BadInput(f"{path}: only a file that is not compressed can be read in parts")
    if out == "-":
        raise BadInput("name the file to write with --out: finished parts are kept beside it")
    if path.endswith(".parquet") != out.endswith(".parquet"):
        raise BadInput(f"{out}: the output has the format of the input, {format_of(path).suffix}")
    source = Path(path).absolute()
    parts = format_of(path).plan(source, rows)
    if not parts:
        raise BadInput(f"{path} has no rows")
    try:
        settings = settings.model_copy(update={"model": str(resolve(settings.model, settings.registry))})
    except UnknownModel:
        if "/" not in settings.model:
            raise
    return Job(source, Path(out).absolute(), settings, defaults, parts)


@contextmanager
def begun(job: Job) -> Iterator[Job]:
    """The job with its folder, which no other run uses meanwhile.

    Raises BadInput where another run does, or where the parts in it come from another input, model or options.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(job.out.with_name(f".{job.out.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BadInput(f"another run is writing {job.out}") from error
    try:
        _check(job)
        yield job
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _check(job: Job) -> None:
    path, current = job.folder / _RECORD, _record(job)
    if path.exists():
        before = json.loads(path.read_text())
        if changed := [name for name in current if before.get(name) != current[name]]:
            raise BadInput(
                f"{job.folder} holds the parts of a run with other {' and '.join(changed)}; start it as it was to "
                "finish it, or delete the folder"
            )
        return
    scratch = path.with_name(f".{_RECORD}.writing")
    scratch.write_text(json.dumps(current, indent=1) + "\n")
    scratch.replace(path)


def _record(job: Job) -> dict[str, Any]:
    with job.path.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    options = job.settings.model_dump(mode="json", include=_OPTIONS)
    options |= {"parts": len(job.parts), "rows": job.parts[0].rows, **job.defaults._asdict()}
    return {"input": content, "model": _model_digest(job.settings.model), "options": options}


def _model_digest(name: str) -> str:
    """Of a folder's files, or of a hub's commit."""
    if not Path(name).is_dir():
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UnknownModel(f"{name} cannot be loaded as a reward model: {error}") from error
        return str(config._commit_hash)
    return hashlib.sha256(json.dumps(digests(Path(name)), sort_keys=True).encode()).hexdigest()
