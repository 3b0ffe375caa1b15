"""The student encoder as it is served: WordPiece tokens and an int8 ONNX graph on one thread; no torch.

One thread, because routing shares the gateway's cores with everything else and one prompt is too short to split.
One text at a time, because int8 activations are scaled by the largest of the whole input: in a batch a text's
probability would depend, in the second decimal, on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import BertWordPieceTokenizer

MAX_TOKENS = 96


def read_tokenizer(vocabulary: Path) -> BertWordPieceTokenizer:
    """BERT's uncased WordPiece over a list of pieces, one a line."""
    pieces = vocabulary.read_text(encoding="utf-8").splitlines()
    tokenizer = BertWordPieceTokenizer({piece: number for number, piece in enumerate(pieces)}, lowercase=True)
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


class EncoderModel:
    """Texts to logits of the classes by the student encoder in `graph`, over the word pieces in `vocabulary`."""

    def __init__(self, graph: Path, vocabulary: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._tokenizer = read_tokenizer(vocabulary)

    def logits(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """[texts, classes]."""
        return np.concatenate([self._one(text) for text in texts]).astype(np.float64)

    def _one(self, text: str) -> NDArray[np.float32]:
        ids = np.asarray([self._tokenizer.encode(text).ids], dtype=np.int64)
        logits: NDArray[np.float32] = self._session.run(["logits"], {"ids": ids})[0]
        return logits
