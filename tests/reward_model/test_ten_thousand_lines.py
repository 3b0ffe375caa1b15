"""Files of 10,000 lines through the bundled model, as a person would run them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LINES = 10_000
REPLIES = ["Please freeze the card in the app.", "I do not know.", "Send us the date and the amount.", "Ok."]


def _write(path: Path, row: Any) -> Path:
    with path.open("w") as stream:
        for number in range(LINES):
            prompt = [
                {"role": "system", "content": "Help."},
                {"role": "user", "content": f"Payment {number} is wrong."},
            ]
            stream.write(json.dumps(row(number, prompt)) + "\n")
    return path


def _winnow(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "service", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_score_keeps_every_line_in_its_order(tmp_path: Path) -> None:
    path = _write(tmp_path / "in.jsonl", lambda i, prompt: {"prompt": prompt, "completions": [REPLIES[i % 4]], "n": i})
    lines = [json.loads(line) for line in _winnow("score", str(path)).splitlines()]
    assert [line["n"] for line in lines] == list(range(LINES))
    assert all(len(line["scores"]) == len(line["probabilities"]) == 1 for line in lines)
    assert {line["orm"] for line in lines} == {"winnow-orm@3"}


def test_evaluate_counts_every_pair(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "pairs.jsonl",
        lambda i, prompt: {
            "id": str(i),
            "prompt": prompt,
            "chosen": REPLIES[i % 4],
            "rejected": REPLIES[(i + 1) % 4],
            "group": str(i),
        },
    )
    report = json.loads(_winnow("evaluate", str(path)))
    assert (report["pairs"], report["ties"]) == (LINES, 0)
    low, high = report["accuracy_ci"]
    assert low <= report["accuracy"] <= high
    # Of four neighbours in the ring, the longer one is first in two.
    assert report["longer_wins"] == 0.5
