"""Children that answer lines with lines, and servers asked over HTTP."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from loadtest.bench.peers.line_process import answering
from loadtest.bench.processes import BenchError, post

DOUBLE = "import json, sys\nfor line in sys.stdin: print(json.dumps([2 * n for n in json.loads(line)]), flush=True)"
DIES = "import sys\nsys.stdin.readline()\nsys.exit('there is no such model')"


def test_a_child_answers_until_the_block_ends(tmp_path: Path) -> None:
    with answering("double", [sys.executable, "-c", DOUBLE], tmp_path / "log") as child:
        assert child.ask([1, 2]) == [2, 4]
        assert child.ask([]) == []
        assert child.server.cpu_seconds() > 0
        pid = child.server.pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_child_that_ends_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with answering("broken", [sys.executable, "-c", DIES], tmp_path / "log") as child:
        for _ in range(2):
            with pytest.raises(BenchError, match=r"broken ended; (.|\n)*there is no such model"):
                child.ask([1])


def test_a_server_that_refuses_or_is_gone_is_named() -> None:
    with pytest.raises(BenchError, match=r"http://127\.0\.0\.1:9/x did not answer"):
        post("http://127.0.0.1:9/x", {})
