"""Who else answers by best of 8 over the same policy: vLLM's own n with plain scoring after it, its_hub, optillm."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.bench.environments import ITS_HUB, OPTILLM, RECIPES, environment
from loadtest.bench.peers.line_process import answering
from loadtest.bench.processes import BenchError, Server, free_port, post, served

PLAIN = "vLLM + transformers"
_CANDIDATES, _TEMPERATURE = 8, 0.8
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Request:
    """What every contestant is asked."""

    messages: Messages
    max_tokens: int
    seed: int

    def body(self, model: str) -> dict[str, Any]:
        """In OpenAI's terms."""
        return {"model": model, "messages": self.messages, "max_tokens": self.max_tokens, "seed": self.seed}


@dataclass(frozen=True)
class PeerAnswer:
    """Completion tokens, and either the winner's score and probability or texts of which Winnow's scorer judges."""

    tokens: int
    texts: list[str]
    winner: tuple[float, float | None] | None = None
    scoring_tail_ms: float | None = None


Ask = Callable[[Request], PeerAnswer]


@dataclass(frozen=True)
class Upstream:
    """The policy and the scorer that all contestants share."""

    policy: str
    model: str
    scorer: str
    max_tokens: int

    @classmethod
    def of(cls, policy: str, scorer: str, max_tokens: int) -> Upstream:
        """Asks the policy what it calls its model."""
        with urllib.request.urlopen(f"{policy}/v1/models", timeout=10) as response:
            return cls(policy, json.loads(response.read())["data"][0]["id"], scorer, max_tokens)

    def best(self, messages: Messages, texts: list[str]) -> tuple[float, float | None]:
        """Score and probability of the best text."""
        results = post(f"{self.scorer}/v1/score", {"prompt": messages, "completions": texts})["results"]
        winner = max(results, key=lambda result: result["score"])
        return winner["score"], winner["probability"]


def plain_vllm(upstream: Upstream) -> Ask:
    """vLLM samples eight in one request, and nobody judges them."""

    def ask(request: Request) -> PeerAnswer:
        body = request.body(upstream.model) | {"n": _CANDIDATES, "temperature": _TEMPERATURE}
        answer = post(f"{upstream.policy}/v1/chat/completions", body)
        texts = [choice["message"]["content"] or "" for choice in answer["choices"]]
        return PeerAnswer(answer["usage"]["completion_tokens"], texts)

    return ask


def _then_transformers(
    stack: ExitStack, upstream: Upstream, logs: Path, environments: Path, say: Callable[[str], None]
) -> tuple[Ask, Server]:
    """The bundled checkpoint as a plain one-label classifier, asked when all eight are there."""
    folder = logs / "plain"
    command = [sys.executable, "-m", "service", "models", "export", "winnow-orm", str(folder), "--last-token"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"winnow models export failed: {done.stderr.strip()}")
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    command = [sys.executable, "-m", "loadtest.bench.peers.plain_transformers", str(folder)]
    process = stack.enter_context(answering(PLAIN, command, logs / "transformers.log"))
    process.ask([[tokenizer.eos_token_id]])
    sample = plain_vllm(upstream)

    def ask(request: Request) -> PeerAnswer:
        answer = sample(request)
        rendered = tokenizer.apply_chat_template(request.messages, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer.encode(rendered, add_special_tokens=False)
        replies = [tokenizer.encode(text, add_special_tokens=False) for text in answer.texts]
        scores = process.ask([[*prompt, *reply, tokenizer.eos_token_id] for reply in replies])
        return PeerAnswer(answer.tokens, [answer.texts[scores.index(max(scores))]])

    return ask, process.server


def _its_hub(
    stack: ExitStack, upstream: Upstream, logs: Path, environments: Path, say: Callable[[str], None]
) -> tuple[Ask, Server]:
    """Its BestOfN with Winnow's scorer as the reward model."""
    place = environment(environments, ITS_HUB, RECIPES[ITS_HUB], say)
    script = Path(__file__).with_name("its_hub.py")
    # -P: modules beside the script must not hide those of the environment.
    command = [str(place / "python"), "-P", str(script), upstream.policy, upstream.model, upstream.scorer]
    process = stack.enter_context(answering(ITS_HUB, [*command, str(upstream.max_tokens)], logs / "its_hub.log"))

    def ask(request: Request) -> PeerAnswer:
        found = process.ask({"messages": request.messages, "n": _CANDIDATES})
        return PeerAnswer(found["tokens"], [found["text"]])

    return ask, process.server


def _optillm(
    stack: ExitStack, upstream: Upstream, logs: Path, environments: Path, say: Callable[[str], None]
) -> tuple[Ask, Server]:
    """Its best-of-n: the policy rates its own replies, one after the other; no reward model can be named."""
    place, port = environment(environments, OPTILLM, RECIPES[OPTILLM], say), free_port()
    command = [str(place / "optillm"), "--approach", "bon", "--best-of-n", str(_CANDIDATES), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--base-url", f"{upstream.policy}/v1", "--log", "error"]
    url = f"http://127.0.0.1:{port}"
    server = stack.enter_context(
        served(OPTILLM, command, url, "/health", logs / "optillm.log", {"OPENAI_API_KEY": "none"})
    )

    def ask(request: Request) -> PeerAnswer:
        answer = post(f"{url}/v1/chat/completions", request.body(upstream.model))
        return PeerAnswer(answer["usage"]["completion_tokens"], [answer["choices"][0]["message"]["content"] or ""])

    return ask, server


START = {PLAIN: _then_transformers, ITS_HUB: _its_hub, OPTILLM: _optillm}
