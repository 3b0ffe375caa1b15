"""A file in parts: where they begin, what they hold, and when a run that is started again refuses."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reward_model.errors import BadInput
from reward_model.offline.job import Job, begun, plan
from reward_model.offline.rows import Defaults
from reward_model.offline.scoring import PromptScorer
from reward_model.serving.settings import ScorerSettings

Writer = Callable[[str, list[dict[str, Any]]], Path]


def rows(count: int) -> list[dict[str, Any]]:
    prompt = [{"role": "user", "content": "bill"}]
    return [{"id": number, "prompt": prompt, "completions": ["ok " * number, "no"]} for number in range(count)]


def planned(path: Path, checkpoint: Path, rows: int = 2, out: str = "out.jsonl", **more: Any) -> Job:
    settings = ScorerSettings(model=str(checkpoint), dtype="fp32", **more)
    return plan(str(path), str(path.with_name(out)), settings, Defaults(), rows)


def test_parts_hold_every_line_once_and_know_their_numbers(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    lines = [json.dumps(row) for row in rows(5)]
    # Blank lines count as lines and hold no row; the last line has no end. é is two bytes.
    lines[1] = lines[1].replace("bill", "é")
    path.write_text("\n".join([lines[0], "", *lines[1:4], "  ", "", lines[4]]), encoding="utf-8")
    job = planned(path, checkpoint)
    read = [job.format.read(path, part, Defaults(locale="de")) for part in job.parts]
    assert [[row.raw["id"] for row in part] for part in read] == [[0, 1], [2, 3], [4]]
    assert [part.rows for part in job.parts] == [2, 2, 1]
    assert [row.where.rsplit(" ", 1)[1] for part in read for row in part] == ["1", "3", "4", "5", "8"]
    assert {row.request.locale for part in read for row in part} == {"de"}


def test_an_interrupted_job_goes_on_from_its_parts(model: Any, checkpoint: Path, jsonl: Writer) -> None:
    job = planned(jsonl("in.jsonl", rows(5)), checkpoint)
    with PromptScorer(model) as scorer:
        with begun(job):
            job.score(scorer, job.parts[1])
            first = job.target(1).stat().st_mtime_ns
            job.score(scorer, job.parts[1])
        assert [part.number for part in job.unfinished()] == [0, 2]
        assert not job.out.exists()
        with begun(job):
            for part in job.unfinished():
                job.score(scorer, part)
            assert job.target(1).stat().st_mtime_ns == first
            job.finish()
    assert [json.loads(line)["id"] for line in job.out.read_text().splitlines()] == [0, 1, 2, 3, 4]
    assert [path.name for path in job.out.parent.glob("*out.jsonl*")] == ["out.jsonl"]


def test_a_job_refuses_parts_of_another(model: Any, checkpoint: Path, jsonl: Writer) -> None:
    path = jsonl("in.jsonl", rows(5))
    with (
        begun(planned(path, checkpoint)),
        pytest.raises(BadInput, match="another run is writing"),
        begun(planned(path, checkpoint)),
    ):
        pass
    for other in (planned(path, checkpoint, rows=3), planned(path, checkpoint, max_sequence_tokens=64)):
        with pytest.raises(BadInput, match=r"other options; start it as it was.*or delete the folder"), begun(other):
            pass
    (checkpoint / "calibration.json").write_text(model.calibration.model_dump_json(indent=3))
    with pytest.raises(BadInput, match="other model"), begun(planned(path, checkpoint)):
        pass
    jsonl("in.jsonl", [*rows(4), rows(1)[0]])
    with pytest.raises(BadInput, match="other input and model"), begun(planned(path, checkpoint)):
        pass


def test_parquet_keeps_its_columns_and_names_its_bad_rows(model: Any, checkpoint: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "in.parquet"
    text = [row | {name: json.dumps(row[name]) for name in ("prompt", "completions")} for row in rows(5)]
    call = {"id": "1", "function": {"name": "refund", "arguments": '{"a": null}'}}
    replies = [{"content": "a", "tool_calls": None}, {"content": None, "tool_calls": [call]}]
    nested = [row | {"completions": replies} for row in rows(5)]
    for given in (text, nested):
        table = pa.Table.from_pylist(given).append_column("n", pa.array(range(5), pa.int8()))
        pq.write_table(table, path, row_group_size=3)
        job = planned(path, checkpoint, out="out.parquet")
        with begun(job), PromptScorer(model) as scorer:
            for part in reversed(job.parts):
                job.score(scorer, part)
            job.finish()
        found = pq.read_table(job.out)
        assert found.select(table.column_names).equals(table)
        assert found.column("n").to_pylist() == [0, 1, 2, 3, 4]
        expected = job.format.read(path, job.parts[1], Defaults())
        with PromptScorer(model) as scorer:
            scores = scorer.scores([row.prompt() for row in expected])
        assert found.slice(2, 2).column("scores").to_pylist() == [pytest.approx(each, abs=1e-4) for each in scores]
        assert len(found.column("probabilities")[4]) == 2
    assert expected[0].request.candidates()[1].tool_calls == [call]
    text[3]["completions"] = "[]"
    pq.write_table(pa.Table.from_pylist(text), path)
    job = planned(path, checkpoint, out="out.parquet")
    with pytest.raises(BadInput, match=r"in\.parquet, row 4: completions: List should have at least 1 item"):
        job.format.read(path, job.parts[1], Defaults())


def test_what_cannot_be_read_in_parts_is_refused(checkpoint: Path, tmp_path: Path, jsonl: Writer) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(b"{}\n"))
    (tmp_path / "bad.parquet").write_text("{}")
    settings = ScorerSettings(model=str(checkpoint))
    good = jsonl("in.jsonl", rows(1))
    for path, out, said in (
        (tmp_path / "in.jsonl.gz", "out.jsonl", "not compressed"),
        ("-", "out.jsonl", "not compressed"),
        (good, "-", "name the file to write with --out"),
        (good, "out.parquet", "has the format of the input, .jsonl"),
        (tmp_path / "bad.parquet", "out.parquet", "bad.parquet: "),
        (tmp_path / "none.jsonl", "out.jsonl", "No such file"),
        (jsonl("empty.jsonl", []), "out.jsonl", "has no rows"),
    ):
        with pytest.raises(BadInput, match=said):
            plan(str(path), out, settings, Defaults(), 2)
