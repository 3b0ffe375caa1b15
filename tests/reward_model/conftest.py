"""A tiny base model with a tokenizer of its own, and what stands on it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reward_model.calibration import Calibration, Selection
from reward_model.checkpoint.checkpoint import load_checkpoint, load_formatter, save_checkpoint, tokenizer_sha256
from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.checkpoint.manifest import Base, Manifest
from reward_model.digests import sha256_of
from reward_model.model.reward_model import RewardModel, load_backbone, lora_targets
from reward_model.text.formatting import Formatter, FormattingRule

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores; with threads of their own on each they would wait for one another.
    torch.set_num_threads(1)

# SmolLM2's own template: a default system message, and a newline after each turn.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HIDDEN, LAYERS = 32, 3


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    raw.train_from_iterator(["You are a helpful assistant. Please refund my bill; the card was charged."], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=TEMPLATE,
    )


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random causal model of 3 layers in fp32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("base") / "tiny"
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        # Wide enough that texts differ in score by far more than rounding.
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def formatter(base: Path) -> Formatter:
    """The tiny base's formatter, with room for 128 and 64 tokens."""
    return load_formatter(base, FormattingRule(max_prompt_tokens=128, max_completion_tokens=64))


@pytest.fixture
def adapted(base: Path) -> RewardModel:
    """A reward model over the first two layers whose adapter is not merged and not zero."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    backbone = load_backbone(base, 2, torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=lora_targets(backbone), init_lora_weights=False)
    model = RewardModel(get_peft_model(backbone, config), HIDDEN)
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


@pytest.fixture
def manifest(base: Path, formatter: Formatter) -> Manifest:
    """A manifest for `adapted`."""
    return Manifest(
        id="tiny@1",
        created="2026-01-02T03:04:05+00:00",
        base=Base(name="tiny", weights_sha256=sha256_of(base / "model.safetensors"), path=str(base)),
        layers=2,
        hidden_size=HIDDEN,
        formatting=formatter.rule,
        template_sha256=formatter.template_sha256,
        tokenizer_sha256=tokenizer_sha256(base),
        recipe={},
        data={},
        git_revision="unknown",
        metrics={},
        files={},
    )


@pytest.fixture
def checkpoint(tmp_path: Path, adapted: RewardModel, manifest: Manifest) -> Path:
    """`adapted`, saved."""
    folder = tmp_path / "tiny" / "1"
    save_checkpoint(folder, adapted.backbone, adapted.head, manifest, {"README.md": "# tiny\n"})
    return folder


@pytest.fixture
def model(checkpoint: Path) -> LoadedModel:
    """The same, calibrated and loaded in fp32."""
    calibration = Calibration(
        orm="tiny@1",
        method="platt",
        event="acceptable",
        slope=2.0,
        intercept=-1.0,
        labels=200,
        positives=50,
        date="2026-11-01",
        selection=Selection(n=8),
        fitted_on={"source": "test"},
    )
    (checkpoint / "calibration.json").write_text(calibration.model_dump_json())
    return load_checkpoint(checkpoint, torch.float32)


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[[str, list[dict[str, Any]]], Path]:
    """Write rows to a JSONL file under tmp_path and return its path."""

    def write(name: str, rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write
