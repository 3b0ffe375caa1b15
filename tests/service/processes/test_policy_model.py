"""Names and context lengths of policy models, from their configuration alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.errors import SetupError
from service.processes.policy_model import context_length, served_name


def folder(path: Path, config: Any) -> str:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return str(path)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 32768}, 32768),
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": 131072, "seq_length": 8192}, 8192),
        # A model of text and images states it for its text.
        ({"text_config": {"max_position_embeddings": 4096}, "max_position_embeddings": None}, 4096),
        ({"hidden_size": 32}, None),
    ],
)
def test_the_context_is_the_least_that_the_configuration_states(
    tmp_path: Path, config: dict[str, Any], length: int | None
) -> None:
    assert context_length(folder(tmp_path / "model", config)) == length


def test_one_file_of_weights_states_none(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert context_length(str(tmp_path / "model.gguf")) is None


def test_a_folder_without_a_configuration_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"is no model folder: it has no config\.json"):
        context_length(str(tmp_path))
    with pytest.raises(SetupError, match="cannot be read"):
        context_length(folder(tmp_path / "broken", "{"))
    with pytest.raises(SetupError, match="holds no JSON object"):
        context_length(folder(tmp_path / "list", []))


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "a b", "名/字"])
def test_what_is_neither_folder_nor_hub_id_is_said(name: str) -> None:
    with pytest.raises(SetupError, match="there is no folder"):
        context_length(name)


def test_a_hub_id_without_the_hub_is_said_with_the_remedy() -> None:
    script = "from service.processes.policy_model import context_length; context_length('org/never-downloaded')"
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert "the hub cannot be reached; download it" in done.stderr.splitlines()[-1]


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "奖励模型").mkdir()
    monkeypatch.chdir(tmp_path / "奖励模型")
    assert served_name("bundled") == "smollm2-135m-instruct"
    assert served_name(str(tmp_path / "奖励模型")) == "奖励模型"
    assert served_name(".") == "奖励模型"
    assert served_name("org/model") == "org/model"
