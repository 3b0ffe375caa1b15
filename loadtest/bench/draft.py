"""What speculative decoding brings: one policy with a draft and one without, the same prompts in turns."""

from __future__ import annotations

import random
import re
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.bench.paired import ratio
from loadtest.bench.peers.best_of_n import Request, Upstream, plain_vllm
from loadtest.bench.processes import free_port, served
from loadtest.workload import Workload, load_prompts

_PLAIN, _DRAFTED, _AGAIN = "plain", "drafted", "again"
_COUNTED = re.compile(r"^vllm:spec_decode_num_(draft|accepted)_tokens_total\{[^}]*\} (\S+)$", re.MULTILINE)


def run(
    rounds: int, max_tokens: int, draft: str, draft_tokens: int, logs: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Eight candidates of each of `rounds` prompts. Raises BenchError when a policy does not start."""
    arrivals = Workload(1000.0, 10.0, rounds + 1, 1.0, 0).arrivals(load_prompts(None))
    chance, options = random.Random(0), ["--draft", draft, "--draft-tokens", str(draft_tokens)]
    tokens: dict[str, list[float]] = {name: [] for name in (_PLAIN, _DRAFTED, _AGAIN)}
    with ExitStack() as stack:
        upstreams = {}
        for name, extra in ((_PLAIN, []), (_DRAFTED, options)):
            port = free_port()
            command, url = [sys.executable, "-m", "service", "policy", "--port", str(port)], f"http://127.0.0.1:{port}"
            # vLLM does not draft where min_p is set, as the bundled policy's generation config does.
            command += ["--override-generation-config", '{"min_p": 0}']
            stack.enter_context(served(f"policy, {name}", [*command, *extra], url, "/health", logs / f"{name}.log"))
            upstreams[name] = Upstream.of(url, "", max_tokens)
        upstreams[_AGAIN] = upstreams[_PLAIN]
        for number, arrival in enumerate(arrivals[: rounds + 1]):
            names = list(upstreams)
            chance.shuffle(names)
            request = Request([{"role": "user", "content": arrival.prompt}], max_tokens, seed=number)
            for name in names:
                began = time.perf_counter()
                answer = plain_vllm(upstreams[name])(request)
                if number:
                    # Samples differ between runs, and their lengths with them.
                    tokens[name].append(answer.tokens / (time.perf_counter() - began))
            say(f"prompt {number} of {rounds}")
        guessed = _guessed(upstreams[_DRAFTED].policy)
    return {
        "draft": draft,
        "draft_tokens": draft_tokens,
        "max_tokens": max_tokens,
        "rounds": rounds,
        "tokens_per_second": {name: float(np.median(values)) for name, values in tokens.items()},
        "over_plain": {name: asdict(ratio(tokens[name], tokens[_PLAIN])) for name in (_DRAFTED, _AGAIN)},
        "guessed": guessed,
    }


def _guessed(url: str) -> dict[str, float]:
    """Tokens that were guessed and that were accepted, by vLLM's own count."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        return {name: float(value) for name, value in _COUNTED.findall(response.read().decode())}
