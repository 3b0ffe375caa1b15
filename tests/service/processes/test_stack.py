"""What `winnow serve` runs: the command line, then the environment, then the file, then defaults of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.errors import SetupError
from service.processes.child import Program
from service.processes.stack import ServeOptions, Stack, plan
from service.settings import PolicySettings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own."""
    import os

    for name in list(os.environ):
        if name.startswith("WINNOW_"):
            monkeypatch.delenv(name)


@pytest.fixture
def options(tmp_path: Path) -> ServeOptions:
    return ServeOptions(state=tmp_path / "state")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "tenants.json"
    path.write_text('{"keys": []}')
    return path


def never(policy: PolicySettings) -> list[str]:
    raise AssertionError(f"{policy.url} was asked for its models")


def planned(options: ServeOptions, models: Sequence[str] | None = None) -> Stack:
    return plan(options, never if models is None else lambda policy: list(models))


def program(stack: Stack, name: str) -> Program:
    (only,) = [program for program in stack.programs if program.name == name]
    return only


def option(arguments: Sequence[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def write(path: Path, **settings: Any) -> Path:
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    return path


def test_by_itself_it_starts_everything_with_the_bundled_models(options: ServeOptions, tmp_path: Path) -> None:
    stack = planned(options)
    assert [program.name for program in stack.programs] == ["scorer", "policy", "gateway"], "the gateway drains first"
    assert (stack.url, stack.profile, stack.own_keys) == ("http://127.0.0.1:8000", "demo", True)
    assert stack.bundled_policy
    gateway = program(stack, "gateway").environment
    assert gateway["WINNOW_POLICY_URL"] == "http://127.0.0.1:8001"
    assert gateway["WINNOW_SCORER_URL"] == "http://127.0.0.1:8002"
    assert gateway["WINNOW_POLICY_MODEL"] == "smollm2-135m-instruct"
    assert gateway["WINNOW_KEYS_FILE"] == str(tmp_path / "state" / "keys.json")
    assert "--model" not in program(stack, "scorer").arguments, "WINNOW_SCORER_MODEL decides, else the champion"


@pytest.mark.parametrize("source", ["file", "environment"])
def test_the_settings_are_obeyed(
    source: str, options: ServeOptions, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "profile": "standard",
        "keys_file": str(keys),
        "host": "0.0.0.0",
        "port": 8123,
        "policy_url": "http://gpu:9000",
        "policy_model": "big",
        "scorer_url": "http://gpu:9002",
        "drain_seconds": 100,
    }
    if source == "file":
        options = replace(options, config=write(tmp_path / "winnow.toml", **settings))
    else:
        for name, value in settings.items():
            monkeypatch.setenv(f"WINNOW_{name.upper()}", str(value))
    stack = planned(options)
    assert [program.name for program in stack.programs] == ["gateway"]
    assert (stack.profile, stack.keys_file, stack.own_keys) == ("standard", keys, False)
    assert stack.url == "http://127.0.0.1:8123", "where a person on this machine reaches 0.0.0.0"
    gateway = program(stack, "gateway")
    assert gateway.environment["WINNOW_PROFILE"] == "standard"
    assert gateway.environment["WINNOW_KEYS_FILE"] == str(keys)
    assert gateway.environment["WINNOW_POLICY_URL"] == "http://gpu:9000"
    assert gateway.environment["WINNOW_POLICY_MODEL"] == "big"
    assert gateway.environment["WINNOW_SCORER_URL"] == "http://gpu:9002"
    assert (option(gateway.arguments, "--host"), option(gateway.arguments, "--port")) == ("0.0.0.0", "8123")
    assert gateway.drain_seconds > 100, "the supervisor waits longer than the gateway drains"
    assert any("http://gpu:9000" in note for note in stack.notes)
    assert any("http://gpu:9002" in note for note in stack.notes)


def test_command_line_over_environment_over_file(
    options: ServeOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "winnow.toml", profile="standard", port=1111, policy_model="file", drain_seconds=40)
    monkeypatch.setenv("WINNOW_CONFIG", str(file))
    monkeypatch.setenv("WINNOW_PORT", "2222")
    monkeypatch.setenv("WINNOW_POLICY_MODEL", "environment")
    stack = planned(replace(options, port=3333))
    assert stack.url.endswith(":3333")
    assert program(stack, "gateway").environment["WINNOW_POLICY_MODEL"] == "environment"
    assert option(program(stack, "policy").arguments, "--served-name") == "environment"
    assert stack.profile == "standard"
    assert planned(replace(options, profile="demo")).profile == "demo"


def test_a_started_model_wins_over_an_address_in_the_settings_and_that_is_said(
    options: ServeOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WINNOW_POLICY_URL", "http://gpu:9000")
    monkeypatch.setenv("WINNOW_SCORER_URL", "http://gpu:9002")
    (tmp_path / "奖励模型").mkdir()
    stack = planned(replace(options, model="org/model", orm=str(tmp_path / "奖励模型")))
    environment = program(stack, "gateway").environment
    assert environment["WINNOW_POLICY_URL"] == "http://127.0.0.1:8001"
    assert environment["WINNOW_SCORER_URL"] == "http://127.0.0.1:8002"
    assert option(program(stack, "scorer").arguments, "--model") == str(tmp_path / "奖励模型")
    assert [note.split()[0] for note in stack.notes] == ["policy_url", "scorer_url"]


@pytest.mark.parametrize("folder", ["modèle", "奖励模型", "two\nlines"])
def test_the_gateway_is_told_the_true_name_of_the_policy(options: ServeOptions, tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    stack = planned(replace(options, model=str(tmp_path / folder)))
    assert program(stack, "gateway").environment["WINNOW_POLICY_MODEL"] == folder
    assert option(program(stack, "policy").arguments, "--served-name") == folder
    assert option(program(stack, "policy").arguments, "--model") == str(tmp_path / folder)
    stack = planned(replace(options, model="Qwen/Qwen2.5-7B-Instruct"))
    assert program(stack, "gateway").environment["WINNOW_POLICY_MODEL"] == "Qwen/Qwen2.5-7B-Instruct"


def test_a_running_policy_is_asked_what_it_serves(options: ServeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_POLICY_API_KEY", "secret")
    asked: list[tuple[str, str | None]] = []

    def models(policy: PolicySettings) -> list[str]:
        asked.append((policy.url, policy.api_key))
        return ["qwen"]

    url = "http://gpu:9000"
    stack = plan(replace(options, policy_url=url), models)
    assert asked == [(url, "secret")]
    assert program(stack, "gateway").environment["WINNOW_POLICY_MODEL"] == "qwen"
    named = planned(replace(options, policy_url=url, policy_model="mine"))
    assert program(named, "gateway").environment["WINNOW_POLICY_MODEL"] == "mine"
    with pytest.raises(SetupError, match="serves a, b: name the one to use with --policy-model"):
        planned(replace(options, policy_url=url), ["a", "b"])
    with pytest.raises(SetupError, match="serves none"):
        planned(replace(options, policy_url=url), [])


def test_keys_that_the_gateway_sends_are_checked_by_what_it_starts(options: ServeOptions, tmp_path: Path) -> None:
    file = write(tmp_path / "winnow.toml", policy_api_key="one", scorer_api_key="two")
    stack = planned(replace(options, config=file))
    assert program(stack, "policy").environment == {"VLLM_API_KEY": "one"}
    assert program(stack, "scorer").environment == {"WINNOW_SCORER_API_KEY": "two"}


def test_the_scorer_listens_where_its_own_settings_say(options: ServeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_SCORER_HOST", "0.0.0.0")
    stack = planned(replace(options, scorer_port=8077))
    scorer = program(stack, "scorer")
    assert (option(scorer.arguments, "--host"), option(scorer.arguments, "--port")) == ("0.0.0.0", "8077")
    assert scorer.health == "http://127.0.0.1:8077/readyz"
    assert program(stack, "gateway").environment["WINNOW_SCORER_URL"] == "http://127.0.0.1:8077"
    assert ("0.0.0.0", 8077, "--scorer-port") in stack.ports


def test_options_go_on_to_the_policy(options: ServeOptions) -> None:
    stack = planned(replace(options, draft="ngram", policy_options=("--max-model-len", "8192")))
    arguments = program(stack, "policy").arguments
    assert arguments[-2:] == ["--max-model-len", "8192"]
    assert option(arguments, "--draft") == "ngram"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "a/b", "policy_url": "http://x"}, "--model .* --policy-url"),
        ({"orm": "a/b", "scorer_url": "http://x"}, "--orm .* --scorer-url"),
        ({"policy_url": "http://x", "policy_model": "m", "policy_options": ("--seed", "1")}, "--seed 1: nothing takes"),
        ({"policy_url": "http://x", "policy_model": "m", "draft": "ngram"}, "--draft: nothing takes this"),
        ({"policy_options": ("--served-model-name=x",)}, "use --policy-model"),
        ({"model": "a/b", "policy_model": "smollm2-135m-instruct"}, "is the bundled model"),
        ({"policy_port": 8000}, "--port and --policy-port are the same port"),
        ({"port": 0}, "needs a port of its own"),
        ({"config": Path("/nowhere.toml")}, "no such file"),
        ({"profile": "bold"}, "profile"),
    ],
)
def test_contradictions_are_refused(options: ServeOptions, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        planned(replace(options, **changes))


def test_a_keys_file_that_is_not_there_is_refused(options: ServeOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_KEYS_FILE", "/nowhere/keys.json")
    with pytest.raises(SetupError, match=r"/nowhere/keys\.json does not exist"):
        planned(options)
