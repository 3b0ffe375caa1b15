"""Attention of packed candidates over the keys and values that they share.

Candidates of one prompt stand side by side in one row without padding. Each attends to its prompt, whose keys and
values exist once, and to itself; the two partial results are joined by their log-sum-exp, which is exact (Hydragen,
Juravsky et al., 2024; "cascade inference" in FlashInfer). Cost follows P + N * C tokens instead of N * (P + C).

It stands behind transformers' attention interface, so any causal model that uses the interface is served by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "winnow_cascade"
# What models hand to attention and this one does not do; such a model is scored the plain way.
_UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "position_bias")


class Unsupported(Exception):
    """The model's attention is of a kind that is not done here."""


@dataclass
class KeyValues:
    """Tokens `ids` (L of them) that a model has read: by layer, keys and values [heads, L, D]; and `states` [L, H],
    the last layer's."""

    ids: tuple[int, ...]
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    states: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the tensors."""
        states = [] if self.states is None else [self.states]
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values, *states))

    def first(self, count: int) -> KeyValues:
        """The first `count` tokens, sharing memory with these."""
        if count == len(self.ids):
            return self
        states = None if self.states is None else self.states[:count]
        keys, values = [k[:, :count] for k in self.keys], [v[:, :count] for v in self.values]
        return KeyValues(self.ids[:count], keys, values, states)

    def then(self, more: KeyValues) -> KeyValues:
        """These tokens followed by `more`, which were read after them."""
        keys = [torch.cat(pair, dim=1) for pair in zip(self.keys, more.keys, strict=True)]
        values = [torch.cat(pair, dim=1) for pair in zip(self.values, more.values, strict=True)]
        assert self.states is not None
        assert more.states is not None
        return KeyValues(self.ids + more.ids, keys, values, torch.cat([self.states, more.states]))


@dataclass
class TokenSpan:
    """New tokens in the row, from `start` to `end`, that see themselves causally and all of `before`.

    `before` holds what the cache has, or spans that stand earlier in the same row. Where `capture` is set, it takes in
    the keys and values of its tokens.
    """

    start: int
    end: int
    before: tuple[KeyValues | TokenSpan, ...] = ()
    capture: KeyValues | None = None


class Layout:
    """The spans of a row, and for each piece that is seen the runs of neighbouring tokens that see it."""

    def __init__(self, spans: Sequence[TokenSpan]) -> None:
        self.spans = spans
        self.runs: list[tuple[KeyValues | TokenSpan, slice]] = []
        last: dict[int, int] = {}
        for span in spans:
            for piece in span.before:
                number = last.get(id(piece))
                if number is not None and self.runs[number][1].stop == span.start:
                    self.runs[number] = (piece, slice(self.runs[number][1].start, span.end))
                else:
                    last[id(piece)] = len(self.runs)
                    self.runs.append((piece, slice(span.start, span.end)))


def register() -> str:
    """Make this attention known to transformers; returns its name there."""
    AttentionInterface.register(NAME, cascade_attention)
    return NAME


def cascade_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of one packed row: query [1, heads, T, D], key and value [1, kv_heads, T, D]; gives [1, T, heads, D].

    Without a layout, plain causal attention of rows that are padded on the right. Raises Unsupported for kinds of
    attention that it would get wrong.
    """
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    if odd := [name for name in _UNSUPPORTED if options.get(name) is not None]:
        raise Unsupported(f"attention with {', '.join(odd)}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer, q, k, v = int(module.layer_idx), query[0], key[0], value[0]
    out = torch.empty(q.shape[1], q.shape[0], q.shape[2], dtype=q.dtype, device=q.device).transpose(0, 1)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    for span in layout.spans:
        at = slice(span.start, span.end)
        if span.capture is not None:
            assert len(span.capture.keys) == layer
            stop = span.start + len(span.capture.ids)
            span.capture.keys.append(k[:, span.start : stop].clone())
            span.capture.values.append(v[:, span.start : stop].clone())
        out[:, at], lse[:, at] = attend(q[:, at], k[:, at], v[:, at], scale, causal=True)
    for piece, at in layout.runs:
        keys, values = _of(piece, k, v, layer)
        more, more_lse = attend(q[:, at], keys, values, scale, causal=False)
        share = torch.sigmoid(more_lse - lse[:, at]).to(out.dtype).unsqueeze(-1)
        out[:, at] = torch.lerp(out[:, at], more, share)
        lse[:, at] = torch.logaddexp(lse[:, at], more_lse)
    return out.transpose(0, 1).unsqueeze(0), None


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention [heads, T, D] and the log-sum-exp [heads, T] of its logits; q [heads, T, D], k and v [kv_heads, S, D].

    `causal` wants T == S.
    """
    heads, length, width = q.shape
    groups = heads // k.shape[0]
    if causal:
        k, v = (t.repeat_interleave(groups, dim=0) if groups > 1 else t for t in (k, v))
        out, lse = _flash(q, k, v, scale, causal=True)
        return out, lse
    # Queries of a group of heads share one head's keys: they stand in line behind it, and no key is copied.
    folded = q.reshape(k.shape[0], groups * length, width)
    out, lse = _flash(folded, k, v, scale, causal=False)
    return out.reshape(heads, length, width), lse.reshape(heads, length)


def _flash(q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
    if q.device.type == "cpu":
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    elif q.device.type == "cuda" and q.dtype in (torch.float16, torch.bfloat16):
        found = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)
    else:
        found = _plain(q, k, v, scale, causal=causal)
    return found[0][0], found[1][0]


def _plain(q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    logits = (q @ k.transpose(-1, -2)).float() * scale
    if causal:
        logits = logits.masked_fill(torch.ones_like(logits[0, 0], dtype=torch.bool).triu(1), -math.inf)
    lse = logits.logsumexp(-1)
    return (logits - lse.unsqueeze(-1)).exp().to(v.dtype) @ v, lse


def _of(piece: KeyValues | TokenSpan, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    if isinstance(piece, TokenSpan):
        return k[:, piece.start : piece.end], v[:, piece.start : piece.end]
    return piece.keys[layer], piece.values[layer]
