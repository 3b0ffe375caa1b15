from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from reward_model.checkpoint.loading import load_formatter_of, load_model
from reward_model.errors import UnknownModel


def test_a_checkpoint_is_found_by_name_and_by_folder(checkpoint: Path) -> None:
    by_name = load_model("tiny@1", checkpoint.parents[1], torch.float32)
    by_folder = load_model(str(checkpoint), dtype=torch.float32)
    assert by_name.id == by_folder.id == "tiny@1"
    assert by_name.score([[5, 9, 2]]).tolist() == by_folder.score([[5, 9, 2]]).tolist()


def test_a_formatter_is_that_of_the_model(checkpoint: Path) -> None:
    found, model = load_formatter_of("tiny@1", checkpoint.parents[1]), load_model(str(checkpoint))
    assert (type(found), found.rule) == (type(model.formatter), model.formatter.rule)


def test_a_sequence_classifier_is_loaded_from_its_folder(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(base)
    shape: dict[str, Any] = {"num_labels": 1}
    config = LlamaConfig(
        **shape,
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=2,
    )
    folder = tmp_path / "classifier"
    classifier = LlamaForSequenceClassification(config).eval()
    classifier.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = load_model(str(folder), dtype=torch.float32)
    with torch.inference_mode():
        expected = classifier(torch.tensor([[5, 9, 30, 7]])).logits[0, 0].item()
    assert model.score([[5, 9, 30, 7]]).item() == pytest.approx(expected, abs=1e-5)


def test_neither_is_said_with_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="no reward model is called 'mistyped'"):
        load_model("mistyped")
    with pytest.raises(UnknownModel, match="as a sequence classifier"):
        load_model(str(tmp_path / "nothing"))
