"""`winnow score`: files in process and by a scorer that runs."""

from __future__ import annotations

import gzip
import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from typer.testing import CliRunner, Result

from reward_model.calibration import Curve
from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.errors import BadInput, EngineFailed
from reward_model.offline.cli import score_app
from reward_model.offline.score import local_scores
from reward_model.offline.scoring import PromptScorer
from reward_model.serving.app import create_app
from reward_model.serving.settings import ScorerSettings

Writer = Callable[[str, list[dict[str, Any]]], Path]


def rows(count: int) -> list[dict[str, Any]]:
    """Lines of one to three completions of changing lengths."""
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


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def url(model: LoadedModel) -> Iterator[str]:
    """A scorer in a thread that wants a key."""
    settings = ScorerSettings(api_key="secret")
    server = uvicorn.Server(uvicorn.Config(create_app(model, settings), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_a_file_keeps_its_order_and_its_fields(model: LoadedModel, checkpoint: Path, jsonl: Writer) -> None:
    given = rows(300)
    ran = run(jsonl("in.jsonl", given), "--model", checkpoint, "--dtype", "fp32")
    assert ran.exit_code == 0, ran.output
    found = lines(ran.stdout)
    assert [row["id"] for row in found] == list(range(300))
    for row, line in zip(given, found, strict=True):
        assert line["orm"] == "tiny@1"
        assert line["prompt"] == row["prompt"]
        assert len(line["scores"]) == len(line["probabilities"]) == len(row["completions"])
    assert "Loaded tiny@1" in ran.stderr
    assert "300 lines scored" in ran.stderr
    # The last line by itself, one sequence at a time, unpadded.
    from reward_model.text.formatting import Completion, parse_messages

    prompt = model.formatter.prompt_ids(parse_messages(given[-1]["prompt"]))
    alone = [
        model.score([[*prompt, *model.formatter.completion_ids(Completion(content=text))]]).item()
        for text in given[-1]["completions"]
    ]
    assert found[-1]["scores"] == pytest.approx(alone, abs=1e-3)
    assert found[-1]["probabilities"] == pytest.approx([1 / (1 + 2.718281828 ** -(2 * s - 1)) for s in alone], abs=1e-3)


def test_a_running_scorer_gives_the_same(
    checkpoint: Path, jsonl: Writer, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = jsonl("in.jsonl", rows(20))
    refused = run(path, "--url", url)
    assert (refused.exit_code, "line 1: the scorer answered 401" in refused.stderr) == (2, True)
    monkeypatch.setenv("WINNOW_SCORER_API_KEY", "secret")
    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    remote = run(packed, "--url", url, "--out", tmp_path / "out.jsonl.gz")
    assert remote.exit_code == 0, remote.output
    local = run(path, "--model", checkpoint, "--dtype", "fp32")
    with gzip.open(tmp_path / "out.jsonl.gz", "rt") as stream:
        for there, here in zip(lines(stream.read()), lines(local.stdout), strict=True):
            assert there["scores"] == pytest.approx(here["scores"], abs=1e-3)
            assert there["id"] == here["id"]
            assert there["orm"] == "tiny@1"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": [{"role": "user", "content": "a"}]}, "completions"),
        ({"prompt": [], "completions": ["x"]}, "prompt"),
        ({"prompt": [{"role": "wizard", "content": "a"}], "completions": ["x"]}, "role"),
        ({"prompt": [{"role": "user", "content": [{"type": "image_url"}]}], "completions": ["x"]}, "only text parts"),
    ],
)
def test_a_bad_line_is_named(checkpoint: Path, jsonl: Writer, row: dict[str, Any], said: str) -> None:
    path = jsonl("in.jsonl", [*rows(2), row])
    ran = run(path, "--model", checkpoint)
    assert ran.exit_code == 2
    assert f"{path}, line 3: " in ran.stderr
    assert said in ran.stderr


@pytest.mark.parametrize("arguments", [["--model", "nothing"], ["--dtype", "int3"], ["--registry", "/nowhere"]])
def test_bad_options_are_said_without_a_traceback(jsonl: Writer, arguments: list[str]) -> None:
    ran = run(jsonl("in.jsonl", rows(1)), *arguments)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.splitlines()[-1].startswith("winnow: ")


def test_a_scorer_that_is_not_there_is_said(jsonl: Writer) -> None:
    ran = run(jsonl("in.jsonl", rows(1)), "--url", "http://127.0.0.1:9")
    assert (ran.exit_code, "could not be reached" in ran.stderr) == (2, True)


def test_a_score_that_is_no_number_is_never_written(model: LoadedModel, jsonl: Writer) -> None:
    class Broken(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, spans: torch.Tensor) -> torch.Tensor:
            return torch.full(spans.shape[:-1], torch.nan)

    with PromptScorer(replace(model, module=Broken())) as scorer, pytest.raises(EngineFailed, match="no number"):
        list(local_scores(str(jsonl("in.jsonl", rows(3))), scorer))


def test_a_missing_file_is_said(model: LoadedModel, tmp_path: Path) -> None:
    with PromptScorer(model) as scorer, pytest.raises(BadInput, match="No such file"):
        list(local_scores(str(tmp_path / "nothing.jsonl"), scorer))


def test_the_calibrator_is_that_of_the_rows_route_or_of_the_option(
    model: LoadedModel, checkpoint: Path, jsonl: Writer
) -> None:
    assert model.calibration is not None
    own = Curve(method="platt", slope=1.0, intercept=0.0, labels=50, positives=5)
    calibration = model.calibration.model_copy(update={"by_route": {"billing": own}})
    (checkpoint / "calibration.json").write_text(calibration.model_dump_json())
    row = rows(2)[1]
    path = jsonl("in.jsonl", [row, row | {"route": "billing"}, row | {"route": "fraud", "locale": "de"}])
    for option, routes in ([], (None, "billing", None)), (["--route", "billing"], ("billing", "billing", None)):
        ran = run(path, "--model", checkpoint, "--dtype", "fp32", *option)
        assert ran.exit_code == 0, ran.output
        for line, route in zip(lines(ran.stdout), routes, strict=True):
            slope, intercept = (1, 0) if route == "billing" else (2, -1)
            expected = [1 / (1 + math.exp(-(slope * score + intercept))) for score in line["scores"]]
            assert line["probabilities"] == pytest.approx(expected)
    path = jsonl("in.jsonl", [row | {"route": 5}])
    assert f"{path}, line 1: route: Input should be a valid string" in run(path, "--model", checkpoint).stderr
