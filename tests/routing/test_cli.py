"""`winnow route` on files, compressed and streamed, and on bad lines."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from routing.cli import route_app
from routing.router import Router

Writer = Callable[[str, list[object]], Path]


def route(*arguments: str, stdin: str | None = None) -> tuple[int, list[dict[str, object]], str]:
    result = CliRunner().invoke(route_app, list(arguments), input=stdin)
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def test_the_line_comes_back_with_its_route(write_jsonl: Writer, router: Router) -> None:
    text = "Why was I charged twice?"
    rows: list[object] = [
        {"text": text, "id": 7},
        {"messages": [{"role": "user", "content": "Tell me a joke."}], "route": "old"},
    ]
    code, out, _ = route(str(write_jsonl("in.jsonl.gz", rows)))
    assert code == 0
    assert out[0] == {
        "text": text,
        "id": 7,
        "route": "billing",
        "high_stakes": True,
        "probability": round(router.route(text).probability, 6),
    }
    assert (out[1]["route"], out[1]["high_stakes"]) == ("default", False)


def test_standard_input() -> None:
    code, out, _ = route("-", stdin='{"text": "somebody stole my bank card"}\n\n{"text": ""}\n')
    assert code == 0
    assert [line["route"] for line in out] == ["fraud", "default"]


def test_ten_thousand_lines(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl.gz"
    with gzip.open(path, "wt") as stream:
        stream.writelines(json.dumps({"text": f"charged {number}", "n": number}) + "\n" for number in range(10_000))
    code, out, _ = route(str(path))
    assert code == 0
    assert [line["n"] for line in out] == list(range(10_000))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "fine"}\nnot json\n', "line 2: not JSON"),
        ('{"text": "fine"}\n\n["text"]\n', "line 3: expected a JSON object"),
        ('{"text": 5}\n', "line 1: expected either a `text` (string) or `messages` (array)"),
        ('{"text": "x", "messages": []}\n', "line 1: expected either"),
        ("{}\n", "line 1: expected either"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    code, _, error = route(str(path))
    assert code == 2
    assert message in error
    assert str(path) in error


def test_no_such_file_or_router(tmp_path: Path) -> None:
    code, _, error = route(str(tmp_path / "none.jsonl"))
    assert (code, "No such file" in error) == (2, True)
    code, _, error = route("-", "--model", str(tmp_path), stdin="{}")
    assert (code, "no router here" in error) == (2, True)


def test_settings_of_a_file_and_of_the_environment(
    tmp_path: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "winnow.toml"
    config.write_text(
        "port = 9\n[routes.returns]\nn = 2\n[router.thresholds]\nbilling = 1.0\n"
        '[[router.rules]]\nname = "parcels"\nroute = "returns"\nkeywords = ["parcel"]\n'
    )
    rows: list[object] = [{"text": "Where is my parcel?"}, {"text": "Why was I charged twice?"}]
    lines = str(write_jsonl("in.jsonl", rows))
    _, out, _ = route(lines, "--config", str(config))
    assert [(line["route"], line.get("rule")) for line in out] == [("returns", "parcels"), ("default", None)]
    monkeypatch.setenv("WINNOW_CONFIG", str(config))
    monkeypatch.setenv("WINNOW_ROUTER__THRESHOLDS__BILLING", "0.5")
    _, out, _ = route(lines)
    assert [line["route"] for line in out] == ["returns", "billing"]
    code, _, error = route(lines, "--config", str(tmp_path / "none.toml"))
    assert (code, "no such file" in error) == (2, True)
    config.write_text('[[router.rules]]\nname = "r"\nroute = "fraud"\npattern = "("')
    code, _, error = route(lines)
    assert (code, "router.rules.0" in error, "rule 'r'" in error) == (2, True, True)


def test_a_text_that_was_not_read_to_its_end_is_told() -> None:
    _, out, _ = route("-", stdin=json.dumps({"text": "calm " * 10_000}) + "\n" + json.dumps({"text": "calm"}))
    assert [line.get("truncated") for line in out] == [True, None]
