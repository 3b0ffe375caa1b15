"""`winnow score --engine ray` on two workers: the rows and scores of one process, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from reward_model.offline.cli import score_app
from reward_model.offline.job import begun, plan
from reward_model.offline.parts import Part
from reward_model.offline.ray_engine import Worker, WorkerPool, _session_folder, score_parts
from reward_model.offline.rows import Defaults
from reward_model.serving.settings import ScorerSettings

Writer = Callable[[str, list[dict[str, Any]]], Path]

pytestmark = [
    # One cluster serves them all, and two at a time would wait for the same cores.
    pytest.mark.xdist_group("ray"),
    # Ray Data reads its own deprecated settings when it makes its context.
    pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning:ray.data.context"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster of two cores, which also is what --ray-address is for."""
    # As an operator sets them; Ray reads them when it is first imported.
    environment = pytest.MonkeyPatch()
    environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
    environment.setenv("RAY_AUTH_MODE", "token")
    environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    folder = Path(tempfile.mkdtemp(prefix="wr-"))
    options = (
        f"num_cpus=2, num_gpus=0, include_dashboard=False, object_store_memory=100_000_000, _temp_dir={str(folder)!r}"
    )
    code = f"import ray; print(ray.init('local', {options}).address_info['gcs_address'], flush=True); input()"
    command = [sys.executable, "-W", "ignore", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()
        # It ends with its input, and takes its cluster along.
        process.communicate()
    shutil.rmtree(folder, ignore_errors=True)
    environment.undo()


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "prompt": [{"role": "user", "content": "bill " * (number % 7)}],
            "completions": ["ok " * (number % 5 + i) for i in range(number % 3 + 1)],
        }
        for number in range(count)
    ]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(score_app, [str(argument) for argument in arguments])


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        table: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return table
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [row["id"] for row in found] == [row["id"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in ("scores", "probabilities"):
            assert one[name] == pytest.approx(other[name], abs=1e-4)


def test_two_workers_give_the_rows_and_scores_of_one_process(
    model: Any, checkpoint: Path, jsonl: Writer, cluster: str, tmp_path: Path
) -> None:
    options = [jsonl("in.jsonl", rows(60)), "--model", checkpoint, "--dtype", "fp32"]
    local, there = tmp_path / "local.jsonl", tmp_path / "ray.jsonl"
    ran = run(*options, "--out", local)
    assert ran.exit_code == 0, ran.output
    ran = run(*options, "--out", there, "--engine", "ray", "--ray-address", cluster, "--rows-per-part", 8)
    assert ran.exit_code == 0, ran.output
    assert "60 lines scored" in ran.stderr
    assert len(read(there)) == 60
    assert_same(read(there), read(local))
    assert not (tmp_path / "ray.jsonl.parts").exists()
    import ray

    assert not ray.is_initialized()


class Mortal(Worker):
    """Is killed once in the middle of part 3, between its scores and its file."""

    def score(self, part: Part) -> None:
        once = self.job.out.with_name("killed")
        if part.number == 3 and not once.exists():
            once.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        with self.job.out.with_name("scored").open("a") as stream:
            stream.write(f"{part.number} {os.getpid()}\n")
        super().score(part)


def test_a_killed_worker_loses_and_repeats_nothing(model: Any, checkpoint: Path, cluster: str, tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows(48)), path, row_group_size=25)
    settings = ScorerSettings(model=str(checkpoint), dtype="fp32", device="cpu", threads=1)
    job = plan(str(path), str(tmp_path / "out.parquet"), settings, Defaults(), 8)
    done: list[int] = []
    with begun(job):
        score_parts(job, job.unfinished(), WorkerPool(2, 1, 0, cluster), done.append, worker=Mortal)
        assert sorted(done) == done
        assert done[-1] == 48
        job.finish()
    ran = run(path, "--model", checkpoint, "--dtype", "fp32", "--out", tmp_path / "local.parquet")
    assert ran.exit_code == 0, ran.output
    assert_same(read(tmp_path / "out.parquet"), read(tmp_path / "local.parquet"))
    killed = (tmp_path / "killed").read_text()
    scored = [line.split() for line in (tmp_path / "scored").read_text().splitlines()]
    assert sorted({number for number, _ in scored}) == list("012345")
    assert next(pid for number, pid in scored if number == "3") != killed
    with pytest.raises(ProcessLookupError):
        os.kill(int(killed), 0)


def test_a_part_that_kills_its_workers_is_given_up(checkpoint: Path, jsonl: Writer, tmp_path: Path) -> None:
    settings = ScorerSettings(model=str(checkpoint), device="cpu", threads=1)
    job = plan(str(jsonl("in.jsonl", rows(10))), str(tmp_path / "out.jsonl"), settings, Defaults(), 8)
    batch = {name: [value] for name, value in job.parts[1]._asdict().items()}

    class Doomed(Worker):
        def score(self, part: Part) -> None:
            raise KeyboardInterrupt

    with begun(job):
        for _ in range(5):
            with pytest.raises(KeyboardInterrupt):
                Doomed(job)(batch)
        said = "5 workers have died of the part from row 9 on; has each enough memory?"
        assert Doomed(job)(batch) == {"rows": [2], "error": [said]}


def test_a_bad_row_is_named_as_by_the_local_engine(
    checkpoint: Path, jsonl: Writer, cluster: str, tmp_path: Path
) -> None:
    bad = {"prompt": [{"role": "wizard", "content": "a"}], "completions": ["x"]}
    path = jsonl("in.jsonl", [*rows(10), bad, *rows(5)])
    out = tmp_path / "out.jsonl"
    options = [path, "--model", checkpoint, "--out", out]
    local = run(*options)
    ran = run(*options, "--engine", "ray", "--ray-address", cluster, "--workers", 1, "--rows-per-part", 4)
    assert (local.exit_code, ran.exit_code) == (2, 2), ran.output
    said = ran.stderr.splitlines()[-1]
    assert said == local.stderr.splitlines()[-1]
    assert f"{path}, line 11: prompt.0.role: " in said
    assert not out.exists()


def processes(mark: str) -> list[str]:
    """Command lines of live processes that mention `mark`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if mark in command:
            found.append(command)
    return found


@pytest.mark.timeout(240)
def test_a_killed_run_goes_on_and_no_process_stays(checkpoint: Path, jsonl: Writer, tmp_path: Path) -> None:
    path, out, parts = jsonl("in.jsonl", rows(1200)), tmp_path / "out.jsonl", tmp_path / "out.jsonl.parts"
    options = [str(path), "--model", str(checkpoint), "--dtype", "fp32", "--out", str(out), "--engine", "ray"]
    options += ["--workers", "1", "--threads", "1", "--rows-per-part", "20"]
    session = _session_folder(plan(str(path), str(out), ScorerSettings(model=str(checkpoint)), Defaults(), 20))
    command = [sys.executable, "-c", "from reward_model.offline.cli import score_app; score_app()", *options]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(parts.glob("0*.jsonl")):
        assert driver.poll() is None
        time.sleep(0.01)
    assert processes(session.name)
    driver.kill()
    driver.wait()
    until = time.monotonic() + 30
    while (left := processes(session.name)) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []
    assert not out.exists()
    kept = {each.name: each.read_bytes() for each in parts.glob("0*.jsonl")}
    assert 0 < len(kept) < 60
    changed = run(*options, "--locale", "de")
    assert changed.exit_code == 2
    assert "out.jsonl.parts holds the parts of a run with other options" in changed.stderr
    again = run(*options)
    assert again.exit_code == 0, again.output
    assert f"{len(kept)} of 60 parts are finished already" in again.stderr
    assert [row["id"] for row in read(out)] == list(range(1200))
    # What was finished is in the output as it was.
    assert all(content in out.read_bytes() for content in kept.values())
    assert (processes(session.name), session.exists(), parts.exists()) == ([], False, False)
