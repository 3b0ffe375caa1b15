"""`winnow audit`, typed: draw from a store, fill in the sheet, take it back, report."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert
from typer.testing import CliRunner

from service.audits.cli import audit_app
from service.store.database import open_database
from service.store.tables import candidates, responses

RUNNER = CliRunner()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with forty answers of today."""
    address = f"sqlite:///{tmp_path / 'w.db'}"

    async def fill() -> None:
        engine = await open_database(address)
        async with engine.begin() as connection:
            for number in range(40):
                await connection.execute(insert(responses).values(_response(number)))
                await connection.execute(insert(candidates), [_candidate(number, index) for index in range(2)])
        await engine.dispose()

    asyncio.run(fill())
    return address


def _response(number: int) -> dict[str, Any]:
    unlike = {"route": ["billing", "fraud"][number % 2], "decision": "review", "stop_reason": "all_scored"}
    counts = {"n": 2, "n_completed": 2, "n_scored": 2, "prompt_tokens": 3, "completion_tokens": 8}
    return {
        "id": f"chatcmpl-{number}",
        "at_ms": int(time.time() * 1000) - 60_000,
        "tenant": "acme",
        "sent": "winner",
        "winner": 0,
        "score": 1.0,
        "probability": 0.2 + 0.01 * number,
        "prompt": [{"role": "user", "content": f"question {number}"}],
        "parameters": {},
        "versions": {"policy": "p"},
        "calibrator": {"id": "orm@3/platt", "event": "acceptable", "labels": 211},
        "timings_ms": {},
        "redacted": [],
        **unlike,
        **counts,
    }


def _candidate(number: int, index: int) -> dict[str, Any]:
    content = f"{'winner' if index == 0 else 'loser'} {number}" + " and more" * (number % 3)
    shared = {"finish_reason": "stop", "stopped": False, "completion_tokens": 4, "content": content}
    return {"response_id": f"chatcmpl-{number}", "index": index, "score": 1.0 - index, **shared}


def run(*arguments: str) -> Any:
    return RUNNER.invoke(audit_app, list(arguments))


def test_from_draw_to_report(url: str, tmp_path: Path) -> None:
    drawn = run("draw", "--size", "30", "--greedy", "0", "--overlap", "0.3", "--seed", "5", "--url", url)
    assert drawn.exit_code == 0, drawn.output
    audit = json.loads(drawn.stdout)
    assert (audit["items"], audit["labels_wanted"]) == (30, 39)
    assert audit["id"].endswith("-5")
    for name in ("anna", "bob"):
        lines = [
            json.loads(line) for line in run("sheet", "latest", "--annotator", name, "--url", url).stdout.splitlines()
        ]
        assert len(lines) == (30 if name == "anna" else 9)
        sheet = tmp_path / f"{name}.jsonl"
        for number, line in enumerate(lines):
            winner = "left" if line["left"]["content"].startswith("winner") else "right"
            other = "right" if winner == "left" else "left"
            line |= {"choice": winner if number % 3 else other, f"{winner}_acceptable": number % 2 == 0}
        lines.append({"item": "not judged", "choice": None})
        sheet.write_text("".join(json.dumps(line) + "\n" for line in lines))
        taken = run("label", audit["id"], str(sheet), "--annotator", name, "--url", url)
        assert (taken.exit_code, json.loads(taken.stdout)) == (0, {"labels": len(lines) - 1})
    reported = run("report", "--url", url, "--html", str(tmp_path / "audit.html"))
    assert reported.exit_code == 0, reported.output
    found = json.loads(reported.stdout)
    assert (found["labels"], found["labelled"], found["between_annotators"]["items"]) == (39, 30, 9)
    assert 0.5 < found["agreement"]["value"] < 0.8
    assert found["calibration"]["labels"] == 30
    page = (tmp_path / "audit.html").read_text()
    assert audit["id"].removeprefix("audit-") in page
    assert "orm@3/platt for P(acceptable), fitted on 211 labels" in page
    assert page.count("<img") == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: not JSON"),
        ("[1]", "line 1: an object is wanted"),
        ('{"choice": "left"}', "line 1: `item` is missing"),
        ('{"item": "x", "choice": "up"}', "line 1: choice: Input should be"),
        ('{"item": "x", "choice": "left", "why": 1}', "line 1: why: Extra inputs"),
        ('{"item": "x", "choice": "left"}', "has no item x"),
    ],
)
def test_a_sheet_that_does_not_fit_is_named_and_nothing_is_taken(
    url: str, tmp_path: Path, line: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run("draw", "--greedy", "0", "--size", "5", "--url", url)
    (tmp_path / "sheet.jsonl").write_text(line + "\n")
    done = run("label", "latest", str(tmp_path / "sheet.jsonl"), "--annotator", "anna", "--url", url)
    assert done.exit_code == 2
    assert said in done.output + capfd.readouterr().err


def test_a_policy_that_is_away_is_named_and_nothing_is_drawn(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WINNOW_POLICY_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WINNOW_POLICY_MODEL", "p")
    done = run("draw", "--greedy", "1", "--size", "5", "--url", url)
    assert done.exit_code == 2
    assert "draw with --greedy 0" in done.output + capfd.readouterr().err
    nothing = run("report", "--url", url)
    assert nothing.exit_code == 2
    assert "no audit was drawn yet" in nothing.output + capfd.readouterr().err
