"""Settings: where they come from, and what is said of bad ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import SetupError
from service.settings import load_settings


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "winnow.toml"
    path.write_text(text)
    return path


def test_a_file_changes_only_what_it_names(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, 'port = 9\n[routes.billing]\nn = 4\non_review = "send"\n'))
    assert settings.port == 9
    billing = settings.routes["billing"]
    assert (billing.n, billing.on_review, billing.temperature, billing.on_fallback) == (4, "send", 0.8, "message")
    assert settings.routes["fraud"].on_review == "hold_message"
    assert settings.routes["default"].strategy == "greedy"


@pytest.mark.parametrize(
    ("text", "risk", "least"),
    [("0.8", None, 0.8), ('"0.8"', None, 0.8), ('"risk:0.05"', 0.05, 0.0), ('"risk:.1"', 0.1, 0.0)],
)
def test_a_threshold_is_a_probability_or_a_risk(tmp_path: Path, text: str, risk: float | None, least: float) -> None:
    billing = load_settings(write(tmp_path, f"[routes.billing]\naccept_threshold = {text}\n")).routes["billing"]
    assert (billing.risk, billing.least_probability) == (risk, least)


def test_the_command_line_beats_the_environment_beats_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'host = "file"\nport = 1\npolicy_model = "file"\n[routes.fraud]\nn = 2\nbudget_ms = 700\n')
    code = (
        "from pathlib import Path; from service.settings import load_settings\n"
        f"s = load_settings(Path({str(path)!r}), host='cli')\n"
        "print(s.host, s.port, s.policy_model, s.routes['fraud'].n, s.routes['fraud'].budget_ms)"
    )
    environment = os.environ | {"WINNOW_HOST": "env", "WINNOW_PORT": "2", "WINNOW_ROUTES__FRAUD__N": "3"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["cli", "2", "file", "3", "700"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "prot"),
        ("port = 99999", "port"),
        ("[routes.billing]\nn = 0", "routes.billing.n"),
        ("[routes.billing]\nn = 20", "max_n"),
        ('[routes."My garden"]\nn = 2', "My garden"),
        ('[routes.billing]\npolicy = "other"', "no policy goes by the name 'other'"),
        ("[routes.billing]\nreview_threshold = 0.9", "review_threshold"),
        ('[routes.billing]\naccept_threshold = "risk:0"', "accept_threshold"),
        ('[routes.billing]\naccept_threshold = "risk:1.5"', "accept_threshold"),
        ('[routes.billing]\naccept_threshold = "risk:0.05"\nearly_accept = true', "early_accept needs a number"),
        ('[[router.rules]]\nname = "r"\nroute = "fraud"\npattern = "("', "rule 'r'"),
        ('profile = "wild"', "profile"),
        ("port = ", "winnow.toml"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SetupError, match=said):
        load_settings(write(tmp_path, text))


def test_a_missing_file_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no such file"):
        load_settings(tmp_path / "winnow.toml")


_NOBODY = 'on_review = "send"\nfallback_message = "Sorry."\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[store]\nurl = "none"', "routes.billing.on_review=hold_message promises .* store.url=none keeps no ticket"),
        ("[store]\ntexts = false", "routes.billing.on_review=hold_message promises .* store.texts=false hides replies"),
        (
            'profile = "demo"\n[store]\nurl = "none"\n[routes.fraud]\non_review = "hold_message"',
            "routes.fraud.on_review",
        ),
        (
            '[store]\nurl = "none"\n[routes.billing]\n' + _NOBODY + '[routes.fraud]\non_review = "send"',
            "routes.fraud.on_fallback=message promises",
        ),
        (
            '[store]\nurl = "none"\n[routes.billing]\n'
            + _NOBODY
            + '[routes.fraud]\non_review = "send"\non_fallback = "send"',
            "routes.fraud.on_timeout=message promises",
        ),
    ],
)
def test_a_promise_that_cannot_be_kept_is_refused_with_the_setting_to_change(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(SetupError, match=message) as error:
        load_settings(write(tmp_path, text))
    assert "set store." in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        'profile = "demo"\n[store]\nurl = "none"',
        'profile = "demo"\n[store]\ntexts = false',
        '[store]\nurl = "none"\n[routes.billing]\n' + _NOBODY + "[routes.fraud]\n" + _NOBODY,
    ],
)
def test_without_a_promise_no_store_is_needed(tmp_path: Path, text: str) -> None:
    load_settings(write(tmp_path, text))
