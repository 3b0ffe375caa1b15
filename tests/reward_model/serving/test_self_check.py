"""A fast path that does not say what transformers says is not used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry

from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.checkpoint.sequence_classifier import load_sequence_classifier
from reward_model.serving.engine import Engine
from reward_model.serving.metrics import ScorerMetrics
from reward_model.serving.self_check import conversations, stated_noise
from reward_model.serving.settings import ScorerSettings
from reward_model.text.chat_formatting import ChatFormatter
from reward_model.text.formatting import Completion, parse_messages
from tests.reward_model.chat_families import FAMILIES, make_tokenizer


class Unstripped(ChatFormatter):
    """Leaves the padding token that closes a reply, of which transformers reads the one before."""

    def _unpadded(self, ids: list[int]) -> list[int]:
        return ids


@pytest.fixture
def padded(tmp_path: Path) -> LoadedModel:
    """A classifier whose end-of-turn token is its padding token."""
    import transformers as hf

    tokenizer = make_tokenizer(FAMILIES["llama 2"], "</s>")
    torch.manual_seed(3)
    shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 1}
    shape |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "intermediate_size": 64}
    hf.LlamaForSequenceClassification(hf.LlamaConfig(**shape, initializer_range=0.2)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return load_sequence_classifier(str(tmp_path), torch.float32)


def engine(model: LoadedModel) -> Engine:
    return Engine(model, ScorerSettings(), ScorerMetrics(CollectorRegistry()))


async def test_a_fast_path_that_reads_another_token_is_not_used(
    padded: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    form = padded.formatter
    wrong = replace(padded, formatter=Unstripped(form.tokenizer, form.rule, form.tokenizer.pad_token_id))
    found = engine(wrong)
    assert "scored the plain way" in caplog.text
    assert found._packed is None
    prompt, reply = parse_messages([{"role": "user", "content": "Refund?"}]), Completion(content="Yes.")
    found.batcher.start()
    scores = (await found.score(prompt, [reply])).scores
    await found.batcher.stop()
    ((begin, end),) = form.sequences(prompt, [reply])
    assert scores == pytest.approx(padded.score([[*begin, *end]]).tolist(), abs=1e-5)


def test_a_fast_path_that_says_the_same_is_used_and_its_cache_is_empty(
    padded: LoadedModel, model: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    for loaded in (padded, model):
        packed = engine(loaded)._packed
        assert packed is not None
        assert (len(packed.cache), packed.reused) == (0, 0)
    assert caplog.text == ""


def test_weights_that_are_no_numbers_are_not_trusted_to_agree(
    padded: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    module: Any = padded.module
    with torch.no_grad():
        module.model.score.weight.fill_(torch.nan)
    assert engine(padded)._packed is None
    assert "scored the plain way" in caplog.text


def test_what_a_template_refuses_is_left_out(padded: LoadedModel) -> None:
    assert len(list(conversations(padded))) == 3
    tokenizer = make_tokenizer(FAMILIES["gemma"], None)
    gemma = replace(padded, formatter=ChatFormatter(tokenizer, padded.formatter.rule))
    assert [[turn.role for turn in prompt] for prompt, _ in conversations(gemma)] == [
        ["user"],
        ["user", "assistant", "user"],
    ]


def test_the_noise_grows_with_the_scores_and_with_their_precision(padded: LoadedModel) -> None:
    assert stated_noise(padded, torch.tensor([0.2, -0.1])) == pytest.approx(0.001)
    assert stated_noise(padded, torch.tensor([3.0, -20.0])) == pytest.approx(0.02)
    padded.module.bfloat16()
    assert stated_noise(padded, torch.tensor([3.0, -20.0])) == pytest.approx(1.0)
