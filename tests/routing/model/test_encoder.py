"""The student against transformers: word pieces, states and the int8 graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertModel, BertTokenizer

from routing.errors import BadRoutingInput
from routing.model.bundle import BUNDLED, VOCABULARY
from routing.model.encoder import MAX_TOKENS, EncoderModel, read_tokenizer
from routing.train.distil import teacher_vectors
from routing.train.student import export_onnx, from_bert

TEXTS = ["Charged twice", "a stolen card", "fee", "abc def ghi"]


def test_every_layer_at_full_rank_is_the_encoder_itself(tiny_bert: Path) -> None:
    own = from_bert(tiny_bert).eval()
    theirs = BertModel.from_pretrained(tiny_bert).eval()
    ids = torch.tensor([[2, 57, 58, 3], [2, 60, 3, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    with torch.inference_mode():
        states = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
        mine = own(ids, mask)[1]
    expected = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-4)


def test_the_int8_graph_is_near_the_network_it_was_made_from(tiny_bert: Path, tmp_path: Path) -> None:
    student = from_bert(tiny_bert, layers=1, vocabulary=60, rank=16, classes=3).eval()
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join((tiny_bert / "vocab.txt").read_text().splitlines()[:60]) + "\n")
    export_onnx(student, tmp_path / "encoder.onnx")
    served = EncoderModel(tmp_path / "encoder.onnx", vocabulary)
    tokenizer = read_tokenizer(vocabulary)
    for text in TEXTS:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.inference_mode():
            expected = student(ids, torch.ones_like(ids))[0].numpy()
        np.testing.assert_allclose(served.logits([text]), expected, atol=0.05)


def test_word_pieces_are_those_of_transformers(tmp_path: Path) -> None:
    vocabulary = BUNDLED / VOCABULARY
    theirs = BertTokenizer(vocab=str(vocabulary), do_lower_case=True)
    own = read_tokenizer(vocabulary)
    for text in ["I've been CHARGED twice!", "Überweisung 12,50 €", "naïve café", "东京 💳", "unverifiablenesses", ""]:
        assert own.encode(text).ids == theirs(text)["input_ids"]


def test_long_texts_are_cut() -> None:
    assert len(read_tokenizer(BUNDLED / VOCABULARY).encode("fee " * 500).ids) == MAX_TOKENS


def test_teacher_vectors_keep_the_order_of_the_texts(tiny_bert: Path) -> None:
    one_by_one = np.concatenate([teacher_vectors(tiny_bert, [text]) for text in TEXTS])
    # bfloat16 states: two significant decimals.
    np.testing.assert_allclose(teacher_vectors(tiny_bert, TEXTS), one_by_one, atol=0.05)


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRoutingInput, match="not a BERT encoder of 4 layers"):
        from_bert(tmp_path, layers=4)
