"""A judge behind a real HTTP server that prefers what the test says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from reward_model.errors import BadInput, RewardModelError
from reward_model.labels import Pair
from reward_model.offline.evaluate_cli import evaluate_app
from reward_model.training.evaluation.judge import judge_agreement

Choose = Callable[[str], str]


@contextmanager
def judge_server(choose: Choose, status: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            said = choose(body["messages"][0]["content"])
            answer = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _pairs() -> list[Pair]:
    prompt = [{"role": "user", "content": "q"}]
    return [
        Pair.model_validate({"id": str(i), "group": str(i), "prompt": prompt, "chosen": "good", "rejected": "evil"})
        for i in range(8)
    ]


# The model is right in six of eight.
SCORES = np.array([[1.0, 0.0]] * 6 + [[0.0, 1.0]] * 2)


def _prefers_good(text: str) -> str:
    return "A" if text.index("good") < text.index("evil") else "The answer is B."


def test_a_steady_judge_is_compared_with_model_and_people() -> None:
    with judge_server(_prefers_good) as url:
        found = judge_agreement(url, "j", _pairs(), SCORES)
    assert (found["pairs"], found["ties"]) == (8, 0)
    assert found["judge_with_people"] == 1.0
    assert found["judge_with_model"] == 0.75
    assert "not a substitute for people" in found["note"]


def test_a_judge_that_always_names_the_first_side_has_judged_nothing() -> None:
    with judge_server(lambda _: "A") as url:
        found = judge_agreement(url, "j", _pairs(), SCORES, most=5)
    assert (found["pairs"], found["ties"], found["judge_with_model"]) == (5, 5, None)


def test_an_answer_without_a_side_is_no_tie() -> None:
    with judge_server(lambda _: "Both are fine.") as url:
        found = judge_agreement(url, "j", _pairs(), SCORES, most=5, seed=3)
    assert (found["ties"], found["unreadable"], found["judge_with_people"]) == (0, 5, None)


def test_the_command_asks_the_judge_and_correlates_ratings(
    checkpoint: Path, jsonl: Callable[[str, list[dict[str, Any]]], Path], tmp_path: Path
) -> None:
    pairs = jsonl("pairs.jsonl", [pair.model_dump(mode="json") for pair in _pairs()])
    prompt = [{"role": "user", "content": "q"}]
    rated = [
        {"id": str(i), "group": "g", "prompt": prompt, "completion": "so " * i, "acceptable": False, "rating": i}
        for i in range(1, 6)
    ]
    page = tmp_path / "page.html"
    with judge_server(_prefers_good) as url:
        arguments = [str(pairs), "--model", str(checkpoint), "--judge", url, "--judge-model", "j", "--judge-pairs", "3"]
        arguments += ["--seed", "5", "--ratings", str(jsonl("rated.jsonl", rated)), "--html", str(page)]
        done = CliRunner().invoke(evaluate_app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["judge"]["judge"], found["judge"]["pairs"], found["judge"]["seed"]) == ("j", 3, 5)
    assert (found["ratings"]["replies"], found["ratings"]["prompts"]) == (5, 1)
    assert "not a substitute for people" in page.read_text()


def test_failures_are_told() -> None:
    with judge_server(_prefers_good, status=500) as url, pytest.raises(RewardModelError, match="gave no verdict"):
        judge_agreement(url, "j", _pairs(), SCORES)
    ties = [pair.model_copy(update={"outcome": "tie"}) for pair in _pairs()]
    with pytest.raises(BadInput, match="have a winner"):
        judge_agreement("http://127.0.0.1:9/v1/", "j", ties, SCORES)
