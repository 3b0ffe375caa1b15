from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reward_model.errors import BadInput, RewardModelError
from reward_model.jsonl import read_jsonl
from reward_model.labels import Pair, read_rows
from reward_model.training.data_cli import data_app
from reward_model.training.generation.endpoints import Endpoint, SamplingParameters, endpoint
from reward_model.training.generation.generate import generate
from reward_model.training.generation.prompts import PromptRow

Row = dict[str, Any]
TWO = SamplingParameters(n=2)


def _prompts(count: int = 3, **fields: Any) -> list[PromptRow]:
    made = [{"id": f"p{i}", "prompt": [{"role": "user", "content": f"Question {i}?"}], **fields} for i in range(count)]
    return [PromptRow.model_validate(row) for row in made]


def _read(path: Path) -> list[Row]:
    return [row for _, row in read_jsonl(str(path))]


def _all(chat: Any, *origins: str) -> list[Endpoint]:
    return [endpoint(origin, f"{chat.url},{origin}-model") for origin in origins]


def test_a_reference_meets_every_reply(chat: Any, tmp_path: Path) -> None:
    out = tmp_path / "deep/pairs.jsonl"
    prompts = _prompts(reference="By rule 2: yes.", reference_origin="human", bucket="refund", risk="high")
    report = generate(prompts, _all(chat, "policy", "older_policy", "teacher"), TWO, out)
    pairs = list(read_rows(out, Pair))
    assert [pair.id for pair in pairs][:6] == [
        "p0:policy0", "p0:policy1", "p0:older_policy0", "p0:older_policy1", "p0:teacher0", "p0:teacher1",
    ]  # fmt: skip
    first = _read(out)[0]
    assert {name: first[name] for name in ("chosen", "label", "origin", "bucket", "risk", "group")} == {
        "chosen": "By rule 2: yes.",
        "label": None,
        "origin": {"chosen": "human", "rejected": "policy"},
        "bucket": "refund",
        "risk": "high",
        "group": "p0",
    }
    assert first["rejected"].startswith("policy-model says")
    assert first["meta"] == {"sampled": {"rejected": {"model": "policy-model", "finish_reason": "stop"}}}
    assert {pair.shown_first for pair in pairs} == {"chosen", "rejected"}
    assert (report["pairs"], report["labelled"]) == (18, 0)
    assert report["rejected_origin"] == {"older_policy": 6, "policy": 6, "teacher": 6}
    # Every reply has a seed of its own, and all carry how they are to be sampled.
    assert len({body["seed"] for body in chat.asked}) == 18
    assert {(body["temperature"], body["max_tokens"], body["model"]) for body in chat.asked} == {
        (0.8, 256, f"{origin}-model") for origin in ("policy", "older_policy", "teacher")
    }
    assert not Path(f"{out}.part").exists()


def test_a_known_winner_brings_its_label(chat: Any, tmp_path: Path) -> None:
    prompts = _prompts(1, reference="Yes.", reference_origin="authored", reference_label="authored")
    generate(prompts, _all(chat, "policy"), TWO, tmp_path / "pairs.jsonl.gz")
    assert [(row["label"], row.get("shown_first")) for row in _read(tmp_path / "pairs.jsonl.gz")] == [
        ("authored", None)
    ] * 2


def test_without_a_reference_origins_meet_the_likely_better_first(chat: Any, tmp_path: Path) -> None:
    generate(_prompts(1), _all(chat, "older_policy", "policy", "teacher"), TWO, tmp_path / "pairs.jsonl")
    pairs = _read(tmp_path / "pairs.jsonl")
    assert [(row["origin"]["chosen"], row["origin"]["rejected"]) for row in pairs] == [
        ("teacher", "policy"), ("teacher", "policy"), ("teacher", "older_policy"), ("teacher", "older_policy"),
        ("policy", "older_policy"), ("policy", "older_policy"),
    ]  # fmt: skip
    assert {row["label"] for row in pairs} == {None}
    generate(_prompts(1), _all(chat, "policy"), SamplingParameters(n=5), tmp_path / "alone.jsonl")
    assert [row["id"] for row in _read(tmp_path / "alone.jsonl")] == ["p0:policy0-policy1", "p0:policy2-policy3"]


def test_identical_and_empty_replies_are_passed_over(chat: Any, tmp_path: Path) -> None:
    said = iter(["Yes. ", "No.", "No.\n", "  ", "Perhaps."])
    chat.reply = lambda body: next(said)
    report = generate(
        _prompts(1, reference="Yes."), _all(chat, "policy"), SamplingParameters(n=5), tmp_path / "p.jsonl", 1
    )
    assert [row["rejected"].strip() for row in _read(tmp_path / "p.jsonl")] == ["No.", "Perhaps."]
    assert report["skipped"] == {"empty": 1, "identical": 2}


def test_tool_calls_are_kept(chat: Any, tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "refund", "arguments": "{}"}}
    chat.reply = lambda body: {"role": "assistant", "content": None, "tool_calls": [call]}
    generate(_prompts(1, reference="Yes."), _all(chat, "policy"), SamplingParameters(n=1), tmp_path / "p.jsonl")
    assert _read(tmp_path / "p.jsonl")[0]["rejected"] == {"tool_calls": [call]}


def test_the_server_names_its_model_and_gets_its_key(chat: Any, tmp_path: Path) -> None:
    target = endpoint("policy", chat.url + "/v1/", api_key="k1")
    generate(_prompts(1, reference="Yes."), [target], SamplingParameters(n=1), tmp_path / "p.jsonl")
    assert (chat.asked[0]["model"], chat.keys[0]) == ("small", "Bearer k1")


def test_what_passes_is_tried_again(chat: Any, tmp_path: Path) -> None:
    chat.failures = [(429, {"retry-after": "0"}), (503, {"retry-after": "tomorrow"})]
    generate(_prompts(1, reference="Yes."), _all(chat, "policy"), SamplingParameters(n=2), tmp_path / "p.jsonl", 2)
    assert (len(_read(tmp_path / "p.jsonl")), len(chat.asked)) == (2, 4)


def test_a_prompt_that_is_refused_does_not_end_the_run(chat: Any, tmp_path: Path) -> None:
    long = PromptRow.model_validate(
        {"id": "x", "prompt": [{"role": "user", "content": "too long"}], "reference": "Yes."}
    )
    report = generate([long, *_prompts(1, reference="Yes.")], _all(chat, "policy"), TWO, tmp_path / "p.jsonl")
    assert (report["prompts"], report["pairs"], report["skipped"]) == (2, 2, {"refused": 2})
    assert "answered 400: " in report["first_refusal"]
    with pytest.raises(RewardModelError, match=r"no pair could be made: .* answered 400: .*context length"):
        generate([long], _all(chat, "policy"), TWO, tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_an_endpoint_that_does_not_work_ends_the_run_and_it_goes_on_later(chat: Any, tmp_path: Path) -> None:
    prompts, targets = _prompts(6, reference="Yes."), _all(chat, "policy", "teacher")
    whole = tmp_path / "whole.jsonl"
    generate(prompts, targets, TWO, whole)
    out, journal = tmp_path / "pairs.jsonl", tmp_path / "pairs.jsonl.part"
    chat.asked.clear()
    chat.broken_after = 10
    with pytest.raises(RewardModelError, match=r"answered 401: .*no such key"):
        generate(prompts, targets, TWO, out, 2)
    assert not out.exists()
    # The settings, and the two prompts whose four replies each had come.
    assert len(journal.read_bytes().splitlines()) == 3
    with journal.open("ab") as stream:
        stream.write(b'{"prompt": "p2", "pai')
    chat.asked.clear()
    chat.broken_after = None
    generate(prompts, targets, TWO, out, 2)
    # By their seeds: a request of the run that failed may reach the server late.
    assert len({body["seed"] for body in chat.asked}) == 4 * 4
    assert out.read_bytes() == whole.read_bytes()


def test_a_journal_of_other_settings_is_refused(chat: Any, tmp_path: Path) -> None:
    prompts, out = _prompts(2, reference="Yes."), tmp_path / "p.jsonl"
    chat.broken_after = 0
    for how, expected in ((TWO, "401"), (SamplingParameters(n=3), "begun with other prompts, models or sampling")):
        with pytest.raises(RewardModelError, match=expected):
            generate(prompts, _all(chat, "policy"), how, out)


@pytest.mark.parametrize("cut", [b"", b'{"prompts": "ab'])
def test_a_journal_that_holds_nothing_whole_is_begun_again(chat: Any, tmp_path: Path, cut: bytes) -> None:
    (tmp_path / "p.jsonl.part").write_bytes(cut)
    chat.broken_after = 2
    prompts = _prompts(2, reference="Yes.")
    with pytest.raises(RewardModelError, match="401"):
        generate(prompts, _all(chat, "policy"), TWO, tmp_path / "p.jsonl", 1)
    chat.broken_after = None
    generate(prompts, _all(chat, "policy"), TWO, tmp_path / "p.jsonl", 1)
    assert (len(_read(tmp_path / "p.jsonl")), len({body["seed"] for body in chat.asked})) == (4, 4)


def test_a_run_that_is_killed_goes_on(chat: Any, tmp_path: Path, jsonl: Callable[[str, list[Row]], Path]) -> None:
    rows = [row.model_dump(mode="json") for row in _prompts(12, reference="Yes.")]
    path, out = jsonl("in.jsonl", rows), tmp_path / "pairs.jsonl"
    arguments = ["pairs", str(path), "--policy", chat.url, "--n", "1", "--concurrency", "1"]
    code = "from reward_model.training.data_cli import data_app; data_app()"
    chat.delay = 0.1
    command = [sys.executable, "-c", code, *arguments, "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while len(chat.asked) < 4:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not out.exists()
    chat.delay = 0.0
    before = len(chat.asked)
    done = CliRunner().invoke(data_app, [*arguments, "--out", str(out)])
    assert done.exit_code == 0, done.output
    # At most the last answer was lost.
    assert len({body["seed"] for body in chat.asked[before:]}) <= 9
    assert json.loads(done.stdout)["pairs"] == 12
    assert "12 of 12 prompts" in done.stderr
    whole = tmp_path / "whole.jsonl"
    assert CliRunner().invoke(data_app, [*arguments, "--out", str(whole)]).exit_code == 0
    assert out.read_bytes() == whole.read_bytes()


def test_the_command_reads_keys_and_says_what_is_wrong(
    chat: Any,
    tmp_path: Path,
    jsonl: Callable[[str, list[Row]], Path],
    row: Callable[..., Row],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WINNOW_TEACHER_API_KEY", "t")
    arguments = ["pairs", str(jsonl("in.jsonl", [row("a")])), "--out", str(tmp_path / "p.jsonl")]
    nobody = CliRunner().invoke(data_app, arguments)
    assert (nobody.exit_code, "nobody to ask" in nobody.stderr) == (2, True)
    bad = CliRunner().invoke(data_app, [*arguments, "--policy", "localhost:80"])
    assert (bad.exit_code, "expected http://HOST:PORT" in bad.stderr) == (2, True)
    done = CliRunner().invoke(data_app, [*arguments, "--teacher", f"{chat.url},large", "--reference-label", "human"])
    assert done.exit_code == 0, done.output
    assert (chat.keys, json.loads(done.stdout)["labelled"]) == (["Bearer t"] * 2, 2)
    again = CliRunner().invoke(data_app, [*arguments, "--teacher", chat.url])
    assert (again.exit_code, "exists; choose another --out" in again.stderr) == (2, True)


def test_nobody_at_the_address(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected http"):
        endpoint("policy", "ftp://x")
    with pytest.raises(RewardModelError, match=r"http://127\.0\.0\.1:9/v1 failed 2 times \(ConnectError\)"):
        generate(_prompts(1), [Endpoint("policy", "http://127.0.0.1:9/v1", attempts=2)], TWO, tmp_path / "p.jsonl")
