"""Scoring eight completions of one prompt: Winnow's scorer, vLLM's pooling server, plain transformers.

One checkpoint (a one-label sequence classifier in bf16), one set of token ids, one machine, one run: in each round
every contestant scores the same new prompt and completions once, in random order. `again` is Winnow's scorer a second
time, on ids of its own: what differs from a ratio of 1 there is noise. Where a shape has shared tokens, every prompt
begins with the same ones, as those of one company's requests do.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.bench.paired import ratio
from loadtest.bench.peers.line_process import answering
from loadtest.bench.processes import Server, free_port, post, served

# Prompt tokens, completion tokens, and how many of the prompt's first tokens all requests share.
SHAPES = ((60, 110, 0), (250, 110, 0), (850, 110, 0), (850, 110, 650))
CANDIDATES = 8
# Ids below are control tokens of most vocabularies.
_FIRST_ID, _SETTLE_SECONDS = 64, 0.1
OURS, AGAIN, VLLM, PLAIN = "winnow", "again", "vllm pooling", "transformers"


@dataclass
class Shape:
    """Measurements at one prompt and completion length, a value for each round."""

    prompt: int
    completion: int
    shared: int = 0
    instructions: list[int] = field(default_factory=list)
    """The shared tokens themselves."""
    wall_s: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: dict[str, list[float]] = field(default_factory=dict)
    scores: dict[str, list[list[float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Ids:
    """Token ids of a prompt, up to where the reply begins, and of completions with their closing token."""

    prompt: list[int]
    completions: list[list[int]]

    def whole(self) -> list[list[int]]:
        """Each completion behind the prompt."""
        return [self.prompt + completion for completion in self.completions]


Ask = Callable[[list[list[int]]], list[float]]


@dataclass(frozen=True)
class ScoringContestant:
    """How it is asked, and whose CPU time counts."""

    ask: Ask
    server: Server


def run(folder: Path, rounds: int, logs: Path, say: Callable[[str], None], peers: Sequence[str]) -> dict[str, Any]:
    """Measure at every shape. Raises BenchError when a contestant does not start or gives no scores."""
    config = json.loads((folder / "config.json").read_text())
    header, closing = _frame(folder)
    chance = random.Random(0)
    with ExitStack() as stack:
        contestants = {name: stack.enter_context(_START[name](folder, logs)) for name in (OURS, *peers)}
        contestants[AGAIN] = contestants[OURS]
        shapes = []
        for prompt, completion, shared in SHAPES:
            shape = Shape(prompt, completion, shared, _some(chance, shared, config["vocab_size"]))
            for number in range(rounds + 1):
                _round(contestants, shape, chance, config["vocab_size"], header, closing, count=number > 0)
                say(f"P={prompt} ({shared} shared), C={completion}: round {number} of {rounds}")
            shapes.append(shape)
    return {
        "checkpoint": folder.name,
        "candidates": CANDIDATES,
        "rounds": rounds,
        "shapes": [_summary(s, config) for s in shapes],
    }


def _round(
    contestants: dict[str, ScoringContestant],
    shape: Shape,
    chance: random.Random,
    vocabulary: int,
    header: list[int],
    closing: int,
    *,
    count: bool,
) -> None:
    """Every contestant once; the first round warms up and is not counted."""
    shared, own = (_ids(shape, chance, vocabulary, header, closing) for _ in range(2))
    names = list(contestants)
    chance.shuffle(names)
    for name in names:
        wall, cpu, scores = _timed(contestants[name], (own if name == AGAIN else shared).whole())
        if count:
            shape.wall_s.setdefault(name, []).append(wall)
            shape.cpu_s.setdefault(name, []).append(cpu)
            shape.scores.setdefault(name, []).append(scores)


def _ids(shape: Shape, chance: random.Random, vocabulary: int, header: list[int], closing: int) -> Ids:
    own = _some(chance, shape.prompt - shape.shared - len(header), vocabulary)
    completions = [[*_some(chance, shape.completion - 1, vocabulary), closing] for _ in range(CANDIDATES)]
    return Ids(shape.instructions + own + header, completions)


def _some(chance: random.Random, count: int, vocabulary: int) -> list[int]:
    return [chance.randrange(_FIRST_ID, vocabulary) for _ in range(count)]


def _timed(contestant: ScoringContestant, sequences: list[list[int]]) -> tuple[float, float, list[float]]:
    before, began = contestant.server.cpu_seconds(), time.perf_counter()
    scores = contestant.ask(sequences)
    wall = time.perf_counter() - began
    # Threads that spin for more work after the last one are part of the price.
    time.sleep(_SETTLE_SECONDS)
    return wall, contestant.server.cpu_seconds() - before, scores


def _summary(shape: Shape, config: dict[str, Any]) -> dict[str, Any]:
    names = list(shape.wall_s)
    flops = useful_flops(config, shape.prompt, shape.completion, shape.shared)
    return {
        "prompt": shape.prompt,
        "completion": shape.completion,
        "shared": shape.shared,
        "useful_gflop": flops / 1e9,
        "wall_ms": {name: 1e3 * float(np.median(shape.wall_s[name])) for name in names},
        "cpu_s": {name: float(np.median(shape.cpu_s[name])) for name in names},
        "gflop_per_s": {name: flops / 1e9 / float(np.median(shape.wall_s[name])) for name in names},
        "cpu_ratio": {n: asdict(ratio(shape.cpu_s[OURS], shape.cpu_s[n])) for n in names if n != OURS},
        "wall_ratio": {n: asdict(ratio(shape.wall_s[OURS], shape.wall_s[n])) for n in names if n != OURS},
        "same_winner": {n: same_winner(shape.scores[OURS], shape.scores[n]) for n in names if n not in (OURS, AGAIN)},
        "rounds": {"wall_s": shape.wall_s, "cpu_s": shape.cpu_s},
    }


def useful_flops(config: dict[str, Any], prompt: int, completion: int, shared: int = 0) -> float:
    """Operations of a pass that computes the prompt once, without its `shared` first tokens: products of the layers,
    and attention."""
    hidden, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    keys = config.get("num_key_value_heads", heads) * width
    weights = hidden * (2 * heads * width + 2 * keys + 3 * inner)
    tokens = prompt - shared + CANDIDATES * completion
    pairs = (prompt**2 - shared**2) / 2 + CANDIDATES * (completion * prompt + completion**2 / 2)
    return float(layers * (2 * weights * tokens + 4 * heads * width * pairs))


def same_winner(ours: list[list[float]], theirs: list[list[float]]) -> dict[str, float]:
    """Share of rounds with the same best candidate, and how far scores differ beside how far candidates do."""
    a, b = np.array(ours), np.array(theirs)
    # A server may leave out the head's bias, which moves every score alike.
    apart = (a - a.mean(1, keepdims=True)) - (b - b.mean(1, keepdims=True))
    return {
        "share": float((a.argmax(1) == b.argmax(1)).mean()),
        "noise": float(apart.std()),
        "spread": float(b.std(axis=1).mean()),
    }


def _frame(folder: Path) -> tuple[list[int], int]:
    """Ids of what the chat template writes before a reply, and of what closes one."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    turns = [{"role": "user", "content": "x"}]
    bare, ready = (
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add) for add in (False, True)
    )
    return tokenizer.encode(ready[len(bare) :], add_special_tokens=False), int(tokenizer.eos_token_id)


@contextmanager
def _winnow(folder: Path, logs: Path) -> Any:
    port = free_port()
    command = [sys.executable, "-m", "service", "scorer", "--model", str(folder.resolve()), "--port", str(port)]
    with served(OURS, command, f"http://127.0.0.1:{port}", "/readyz", logs / "winnow.log") as server:
        yield ScoringContestant(_classify(server.url, None), server)


@contextmanager
def _vllm(folder: Path, logs: Path) -> Any:
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder.resolve())]
    command += ["--served-model-name", "orm", "--runner", "pooling", "--convert", "classify", "--dtype", "bfloat16"]
    command += ["--port", str(port), "--max-model-len", "2048", "--enable-prefix-caching", "--enforce-eager"]
    environment = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1"}
    with served(VLLM, command, f"http://127.0.0.1:{port}", "/health", logs / "vllm.log", environment) as server:
        yield ScoringContestant(_classify(server.url, "orm"), server)


@contextmanager
def _plain(folder: Path, logs: Path) -> Any:
    """transformers in a process of its own, without any server around it."""
    command = [sys.executable, "-m", "loadtest.bench.peers.plain_transformers", str(folder)]
    with answering(PLAIN, command, logs / "transformers.log") as process:
        process.ask([[_FIRST_ID]])
        yield ScoringContestant(process.ask, process.server)


_START = {OURS: _winnow, VLLM: _vllm, PLAIN: _plain}
PEERS = (VLLM, PLAIN)


def _classify(url: str, model: str | None) -> Ask:
    def ask(sequences: list[list[int]]) -> list[float]:
        body = {"model": model, "input": sequences, "use_activation": False}
        return [row["probs"][0] for row in post(f"{url}/classify", body)["data"]]

    return ask


def table(found: dict[str, Any], machine_gflops: float) -> str:
    """Markdown: a row for each contestant at each shape."""
    rows = ["| P | shared | C | contestant | wall | CPU | share of the bf16 rate | winnow / its CPU | same winner |"]
    rows.append("|---|---|---|---|---|---|---|---|---|")
    for shape in found["shapes"]:
        for name in shape["wall_ms"]:
            over, same = shape["cpu_ratio"].get(name), shape["same_winner"].get(name)
            shown = f"{over['median']:.2f} ({over['low']:.2f} to {over['high']:.2f})" if over else ""
            agreed = f"{same['share']:.2f} (noise {same['noise']:.3f}, spread {same['spread']:.2f})" if same else ""
            share = shape["gflop_per_s"][name] / machine_gflops
            rows.append(
                f"| {shape['prompt']} | {shape.get('shared', 0)} | {shape['completion']} | {name} "
                f"| {shape['wall_ms'][name]:.0f} ms "
                f"| {shape['cpu_s'][name]:.2f} s | {share:.2f} | {shown} | {agreed} |"
            )
    return "\n".join(rows)
