"""How vLLM is launched, without launching it (tests/e2e does)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from service.errors import SetupError
from service.processes.policy import PolicyLaunch, bundled_dtype, command, environment
from service.processes.policy_model import BUNDLED_NAME


@pytest.fixture
def policy() -> PolicyLaunch:
    return PolicyLaunch(model="bundled", served_name=BUNDLED_NAME, host="127.0.0.1", port=8001)


def test_the_module_is_started_not_the_script(policy: PolicyLaunch) -> None:
    # The `vllm` script of the CPU build looks for a distribution of another name and fails.
    assert command(policy, "/models/x", cpu=True)[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]


def test_the_model_is_served_under_its_name_on_its_port(policy: PolicyLaunch) -> None:
    arguments = command(policy, "/models/x", cpu=True)
    for option, value in {"--model": "/models/x", "--served-model-name": BUNDLED_NAME, "--port": "8001"}.items():
        assert arguments[arguments.index(option) + 1] == value
    assert "--enforce-eager" in arguments


def test_a_gpu_build_compiles_and_extra_arguments_come_last(policy: PolicyLaunch) -> None:
    arguments = command(policy._replace(model="org/model", extra=("--seed", "7")), "org/model", cpu=False)
    assert "--enforce-eager" not in arguments
    assert "--max-model-len" not in arguments
    assert arguments[-2:] == ["--seed", "7"]


@pytest.mark.parametrize(("context", "limit"), [(32768, "8192"), (131072, "8192"), (8192, "8192"), (2048, "2048")])
def test_a_long_context_is_bounded_where_prompts_are_prefilled_whole(
    policy: PolicyLaunch, context: int, limit: str
) -> None:
    arguments = command(policy._replace(model="org/model"), "org/model", cpu=True, context=context)
    assert arguments[arguments.index("--max-model-len") + 1] == limit
    assert "--no-enable-chunked-prefill" in arguments
    assert "--max-num-batched-tokens" not in arguments, "vLLM makes a batch as large as the context"


def test_the_operators_length_counts_and_an_unknown_one_is_vllms_to_find(policy: PolicyLaunch) -> None:
    own = policy._replace(model="org/model", extra=("--max-model-len", "16384"))
    arguments = command(own, "org/model", cpu=True, context=32768)
    assert arguments[-2:] == ["--max-model-len", "16384"], "the last one counts"
    assert "--max-model-len" not in command(policy._replace(model="org/model"), "org/model", cpu=True)
    assert "--max-model-len" not in command(policy._replace(model="a/b"), "a/b", cpu=False, context=32768)


@pytest.mark.parametrize(
    ("draft", "guesser"),
    [
        ("ngram", {"method": "ngram", "prompt_lookup_min": 2, "prompt_lookup_max": 4}),
        ("org/small", {"model": "org/small"}),
    ],
)
def test_what_guesses_ahead_is_told_to_vllm(policy: PolicyLaunch, draft: str, guesser: dict[str, Any]) -> None:
    own = policy._replace(model="org/model", draft=draft, draft_tokens=3)
    arguments = command(own, "/models/x", cpu=True)
    told = json.loads(arguments[arguments.index("--speculative-config") + 1])
    assert told == guesser | {"num_speculative_tokens": 3}
    assert "--speculative-config" not in command(policy, "/models/x", cpu=True)


def test_the_bundled_policy_is_drafted_for_only_without_its_min_p(policy: PolicyLaunch) -> None:
    with pytest.raises(SetupError, match="samples with min_p"):
        command(policy._replace(draft="ngram"), "/models/x", cpu=True)
    extra = ("--override-generation-config", '{"min_p": 0}')
    assert "--speculative-config" in command(policy._replace(draft="ngram", extra=extra), "/models/x", cpu=True)


def test_what_the_operator_set_wins() -> None:
    made = environment({"VLLM_CPU_KVCACHE_SPACE": "8", "PATH": "/bin"}, cpu=True, bundled=True)
    assert made["VLLM_CPU_KVCACHE_SPACE"] == "8"
    assert made["PATH"] == "/bin"
    assert made["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in environment({}, cpu=False, bundled=False)


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("flags\t\t: fpu avx2 fma", "float32"),
        ("flags\t\t: fpu avx2 avx512f avx512_bf16", "bfloat16"),
        ("flags\t\t: fpu amx_bf16 amx_tile", "bfloat16"),
        ("Features\t: fp asimd sve bf16", "bfloat16"),
    ],
)
def test_the_bundled_model_runs_in_what_the_cpu_computes_in(tmp_path: Path, flags: str, dtype: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(flags)
    assert bundled_dtype(cpu=True, cpuinfo=cpuinfo) == dtype
    assert bundled_dtype(cpu=True, cpuinfo=tmp_path / "missing") == "float32"
    assert bundled_dtype(cpu=False, cpuinfo=cpuinfo) == "bfloat16"
