"""The student encoder: the lowest layers of a BERT sentence encoder with a low-rank embedding table.

A sentence encoder (all-MiniLM-L6-v2: 6 layers, 384 wide) knows that "premium" and "bill" are near, which n-grams
cannot know; but six layers in fp32 take 9 ms a prompt. The student keeps its first layers, the first
`vocabulary` entries of its word pieces (BERT's list is in order of frequency; rarer words fall into smaller
pieces) and a table of `rank` numbers each, from a truncated singular value decomposition. In int8 that is a few
megabytes and under a millisecond. `SentenceEncoder` with every layer and `rank=None` is the encoder itself.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from routing.errors import BadRoutingInput
from routing.model.encoder import MAX_TOKENS

EPSILON = 1e-12  # BERT's layer norm
ONE_LAYER = (
    ("output", "attention.output.dense"),
    ("norm_attention", "attention.output.LayerNorm"),
    ("widen", "intermediate.dense"),
    ("narrow", "output.dense"),
    ("norm", "output.LayerNorm"),
)


class Layer(nn.Module):
    """One BERT layer (post-norm), with queries, keys and values in one projection."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.norm_attention = nn.LayerNorm(width, eps=EPSILON)
        self.widen = nn.Linear(width, inner)
        self.narrow = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.dropout = nn.Dropout(0.1)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """States [B, T, width] and an additive mask [B, 1, 1, T] to states."""
        batch, length, width = states.shape
        split = self.qkv(states).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / math.sqrt(width // self.heads) + bias
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width)
        states = self.norm_attention(states + self.dropout(self.output(mixed)))
        inner = self.narrow(functional.gelu(self.widen(states)))
        narrowed: Tensor = self.norm(states + self.dropout(inner))
        return narrowed


class SentenceEncoder(nn.Module):
    """Word pieces to a sentence vector (the mean of the states) and to logits of the classes."""

    def __init__(
        self, vocabulary: int, rank: int, width: int, heads: int, inner: int, layers: int, classes: int
    ) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, rank)
        self.up = nn.Linear(rank, width, bias=False)
        self.positions = nn.Embedding(MAX_TOKENS, width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.layers = nn.ModuleList(Layer(width, heads, inner) for _ in range(layers))
        self.head = nn.Linear(width, classes)
        self.dropout = nn.Dropout(0.1)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """ids and mask [B, T] to (logits [B, classes], sentence vectors [B, width])."""
        embedded = self.up(self.table(ids)) + self.positions.weight[: ids.shape[1]]
        states = self.dropout(self.norm(embedded))
        weights = mask.to(states.dtype)
        bias = (1.0 - weights[:, None, None, :]) * -1e4
        for layer in self.layers:
            states = layer(states, bias)
        mean = (states * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
        return self.head(self.dropout(mean)), mean


def from_bert(
    folder: Path, layers: int | None = None, vocabulary: int | None = None, rank: int | None = None, classes: int = 2
) -> SentenceEncoder:
    """Build from a BERT folder (`config.json`, `model.safetensors`); None keeps all layers, words, the full rank.

    Raises BadRoutingInput when the folder holds no BERT of at least that many layers.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
        table = weights["embeddings.word_embeddings.weight"][:vocabulary].float()
        width, heads, inner = (config[f] for f in ("hidden_size", "num_attention_heads", "intermediate_size"))
        depth = layers or config["num_hidden_layers"]
        encoder = SentenceEncoder(len(table), min(rank or width, width), width, heads, inner, depth, classes)
        _copy_embeddings(encoder, weights, table)
        for number, layer in enumerate(encoder.layers):
            _copy_layer(layer, weights, f"encoder.layer.{number}.")
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise BadRoutingInput(
            f"{folder}: not a BERT encoder of {layers or 'any'} layers in safetensors ({error})"
        ) from error
    return encoder


@torch.no_grad()
def _copy_embeddings(encoder: SentenceEncoder, weights: dict[str, Tensor], table: Tensor) -> None:
    left, values, right = torch.linalg.svd(table, full_matrices=False)
    rank = encoder.table.embedding_dim
    encoder.table.weight.copy_(left[:, :rank] * values[:rank])
    encoder.up.weight.copy_(right[:rank].T)
    # Every text is one segment, so BERT's segment embedding is a constant.
    segment = weights["embeddings.token_type_embeddings.weight"][0]
    encoder.positions.weight.copy_(weights["embeddings.position_embeddings.weight"][:MAX_TOKENS] + segment)
    encoder.norm.weight.copy_(weights["embeddings.LayerNorm.weight"])
    encoder.norm.bias.copy_(weights["embeddings.LayerNorm.bias"])


@torch.no_grad()
def _copy_layer(layer: nn.Module, weights: dict[str, Tensor], prefix: str) -> None:
    for kind in ("weight", "bias"):
        parts = [weights[f"{prefix}attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
        layer.get_parameter(f"qkv.{kind}").copy_(torch.cat(parts))
        for own, bert in ONE_LAYER:
            layer.get_parameter(f"{own}.{kind}").copy_(weights[f"{prefix}{bert}.{kind}"])


def export_onnx(encoder: SentenceEncoder, path: Path) -> None:
    """Write ids [1, T] to logits [1, classes] as an ONNX graph: int8 weights by channel, activations by input."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # The exporter by tracing warns that a newer one exists, and that shapes become dynamic, as wanted.
        warnings.simplefilter("ignore")
        traced = str(Path(folder) / "fp32.onnx")
        torch.onnx.export(
            _OneText(encoder).eval(),
            (torch.ones(1, 8, dtype=torch.long),),
            traced,
            input_names=["ids"],
            output_names=["logits"],
            dynamic_axes={"ids": {1: "length"}},
            dynamo=False,
            opset_version=17,
        )
        quantize_dynamic(
            traced, path, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gather"]
        )


class _OneText(nn.Module):
    """What is served: one text at a time, so no mask."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.encoder(ids, torch.ones_like(ids))[0]
        return logits
