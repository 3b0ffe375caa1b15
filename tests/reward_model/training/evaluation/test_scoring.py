"""Scores over HTTP from a stand-in for the scorer, and the life of a scorer that is started for the purpose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from reward_model.errors import PreparationError, RewardModelError
from reward_model.labels import LabelledReply
from reward_model.training.evaluation.scoring import API_KEY_VARIABLE, own_scorer, scored_by


class Stub(ThreadingHTTPServer):
    """Scores a completion by its length, as the scorer's contract says; keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.orm = "toy@1"
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append({"path": self.path, **body})
        self.server.keys.append(self.headers.get("authorization"))
        status, headers = self.server.refusals.pop(0) if self.server.refusals else (200, {})
        results = [{"index": i, "score": len(c["content"]) + 0.5} for i, c in enumerate(body["completions"])]
        answer = json.dumps({"orm": self.server.orm, "results": results[::-1]}).encode()
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(answer))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _reply(group: int, text: str, **changes: Any) -> LabelledReply:
    row = {"id": f"{group}.{text}", "prompt": [{"role": "user", "content": f"q{group}"}], "group": f"g{group}"}
    return LabelledReply.model_validate({**row, "completion": text, "acceptable": True, **changes})


def test_each_reply_gets_its_score_and_a_prompt_is_asked_once(stub: Stub) -> None:
    replies = [_reply(0, "a"), _reply(1, "bb", locale="de"), _reply(0, "cccc")]
    scores = scored_by(stub.url, "toy@1", "secret")(replies)
    assert scores.tolist() == [1.5, 2.5, 4.5]
    asked = sorted(stub.asked, key=lambda body: len(body["completions"]))
    assert [len(body["completions"]) for body in asked] == [1, 2]
    assert {name: asked[0][name] for name in ("path", "prompt", "orm", "locale")} == {
        "path": "/v1/score",
        "prompt": [{"role": "user", "content": "q1"}],
        "orm": "toy@1",
        "locale": "de",
    }
    assert set(stub.keys) == {"Bearer secret"}


def test_another_model_s_scores_are_refused(stub: Stub) -> None:
    stub.orm = "toy@2"
    with pytest.raises(RewardModelError, match="serves toy@2, not toy@1"):
        scored_by(stub.url, "toy@1")([_reply(0, "a")])


def test_a_scorer_that_is_full_is_asked_again(stub: Stub) -> None:
    stub.refusals = [(503, {"retry-after": "0"}), (503, {"retry-after": "0"})]
    assert scored_by(stub.url, "toy@1")([_reply(0, "a")]).tolist() == [1.5]
    assert len(stub.asked) == 3


@pytest.mark.parametrize("status", [400, 409, 500])
def test_a_refusal_is_told(stub: Stub, status: int) -> None:
    stub.refusals = [(status, {})]
    with pytest.raises(RewardModelError, match=f"answered {status}"):
        scored_by(stub.url, "toy@1")([_reply(0, "a")])


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense"])
def test_nobody_there_is_told(url: str) -> None:
    with pytest.raises(RewardModelError, match="did not answer"):
        scored_by(url, "toy@1")([_reply(0, "a")])


# Run as `service scorer`: what it says on stderr is more than a pipe holds, so that one who does not read it stops it.
FAKE = """
import json, os, pathlib, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
option = dict(zip(sys.argv[2::2], sys.argv[3::2]))
if not pathlib.Path(option["--model"]).is_dir():
    sys.exit("no such model")
pathlib.Path("seen.json").write_text(json.dumps([sys.argv[1], option, os.environ.get("WINNOW_SCORER_API_KEY")]))
class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_):
        sys.stderr.write("x" * 100_000)
        sys.stderr.flush()
HTTPServer(("127.0.0.1", int(option["--port"])), Ready).serve_forever()
"""


@pytest.fixture
def fake_scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `service` is the stand-in."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__main__.py").write_text(FAKE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _gone(url: str, seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            httpx.get(f"{url}/readyz", timeout=2)
        except httpx.TransportError:
            return True
        time.sleep(0.05)
    return False


def test_its_own_scorer_serves_the_checkpoint_and_ends_with_the_block(
    fake_scorer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "the operator's")

    def fail() -> None:
        with own_scorer(Path()) as address:
            urls.append(address)
            for _ in range(3):
                assert httpx.get(f"{address}/readyz").status_code == 200
            raise ValueError("whatever happens")

    urls: list[str] = []
    with pytest.raises(ValueError, match="whatever"):
        fail()
    assert _gone(urls[0])
    command, option, key = json.loads((fake_scorer / "seen.json").read_text())
    assert (command, option["--model"], option["--host"]) == ("scorer", str(fake_scorer), "127.0.0.1")
    assert key is None, "a key that callers must send is not for this scorer"


def test_a_scorer_that_cannot_start_is_told_with_what_it_said(fake_scorer: Path) -> None:
    with pytest.raises(PreparationError, match="no such model"), own_scorer(fake_scorer / "nothing"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal is Linux's")
@pytest.mark.parametrize("killed_by", [signal.SIGKILL, signal.SIGTERM])
def test_it_does_not_outlive_one_who_is_killed(fake_scorer: Path, killed_by: signal.Signals) -> None:
    code = (
        "from pathlib import Path\nfrom reward_model.training.evaluation.scoring import own_scorer\n"
        "with own_scorer(Path()) as url:\n    print(url, flush=True)\n    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=fake_scorer
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        assert httpx.get(f"{url}/readyz", timeout=10).status_code == 200
        os.kill(parent.pid, killed_by)
        parent.wait(20)
    assert _gone(url)


def test_scores_are_numbers_of_double_precision(stub: Stub) -> None:
    assert scored_by(stub.url, "toy@1")([_reply(0, "a")]).dtype == np.float64
