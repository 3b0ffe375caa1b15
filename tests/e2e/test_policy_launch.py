"""A model nobody prepared for: a context of 32,768 tokens, a folder whose name is not ASCII, started by vLLM."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.xdist_group("e2e"), pytest.mark.timeout(600)]

READY_SECONDS = 400
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A causal model of two small layers with random weights."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator([], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        pad_token_id=0,
        eos_token_id=2,
    )
    folder = tmp_path / "modèle"
    torch.manual_seed(0)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_long_context_starts_and_answers_seeded_requests(model: Path, tmp_path: Path) -> None:
    from loadtest.bench.processes import free_port

    port, log = free_port(), tmp_path / "policy.log"
    arguments = [sys.executable, "-m", "service", "policy", "--model", str(model), "--port", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(arguments, stdout=out, stderr=out)
    try:
        served = _models(f"http://127.0.0.1:{port}", process, log)
        assert [(entry["id"], entry["max_model_len"]) for entry in served] == [("modèle", 8192)]
        body = {"model": "modèle", "seed": 7, "max_tokens": 8, "messages": [{"role": "user", "content": "word " * 700}]}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] >= 1
    finally:
        process.terminate()
        process.wait(timeout=60)


def _models(url: str, process: subprocess.Popen[bytes], log: Path) -> list[dict[str, object]]:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            listed: list[dict[str, object]] = httpx.get(f"{url}/v1/models", timeout=5).json()["data"]
            return listed
        except httpx.TransportError:
            time.sleep(0.5)
    raise AssertionError(f"the policy did not start:\n{log.read_text()[-3000:]}")
