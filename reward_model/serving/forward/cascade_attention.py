"""Attention of packed candidates over the keys and values that they share.

Candidates of one prompt stand side by side in one row without padding. Each attends to its prompt, whose keys and
values exist once, and to itself; partial results are joined by their log-sum-exp, which is exact (Hydragen,
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
    """Tokens that a model has read, L of them: by layer, keys and values [heads, L, D]; and the last layer's `states`
    [L, H], where the pooling reads more than one."""

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    states: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Memory of these tokens."""
        states = [] if self.states is None else [self.states]
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values, *states))

    def part(self, begin: int, end: int) -> KeyValues:
        """Tokens `begin` to `end`, sharing memory with these."""
        states = None if self.states is None else self.states[begin:end]
        return KeyValues([k[:, begin:end] for k in self.keys], [v[:, begin:end] for v in self.values], states)

    def copy(self) -> KeyValues:
        """The same in memory of its own."""
        states = None if self.states is None else self.states.clone()
        return KeyValues([k.clone() for k in self.keys], [v.clone() for v in self.values], states)

    @staticmethod
    def joined(pieces: Sequence[KeyValues]) -> KeyValues:
        """Tokens that were read one after the other."""
        if len(pieces) == 1:
            return pieces[0]
        keys = [torch.cat(layer, dim=1) for layer in zip(*(piece.keys for piece in pieces), strict=True)]
        values = [torch.cat(layer, dim=1) for layer in zip(*(piece.values for piece in pieces), strict=True)]
        states = [piece.states for piece in pieces if piece.states is not None]
        return KeyValues(keys, values, torch.cat(states) if states else None)


@dataclass
class TokenSpan:
    """New tokens in the row, from `start` to `end`, that see themselves causally. If `captured` is set, it takes in the
    keys and values of the first `kept` of them."""

    start: int
    end: int
    kept: int = 0
    captured: KeyValues | None = None


@dataclass
class Layout:
    """The spans of a row, and what its tokens see before their own span: for each piece, which tokens see it.

    A piece is a span that stands earlier in the same row, or what the cache has.
    """

    spans: list[TokenSpan] = field(default_factory=list)
    seen: list[tuple[KeyValues | TokenSpan, slice]] = field(default_factory=list)


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
    # Several heads of queries share one of keys: [kv_heads, group, T, D].
    q, grouped = (t.view(k.shape[0], -1, *t.shape[1:]) for t in (q, out))
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    for span in layout.spans:
        at = slice(span.start, span.end)
        if span.captured is not None:
            assert len(span.captured.keys) == layer
            own = slice(span.start, span.start + span.kept)
            span.captured.keys.append(k[:, own].clone())
            span.captured.values.append(v[:, own].clone())
        grouped[:, :, at], lse[:, :, at] = attend(q[:, :, at], k[:, at], v[:, at], scale, causal=True)
    for piece, at in layout.seen:
        keys, values = _of(piece, k, v, layer)
        _join(grouped[:, :, at], lse[:, :, at], *attend(q[:, :, at], keys, values, scale, causal=False))
    return out.transpose(0, 1).unsqueeze(0), None


def _join(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Add to `out` and its log-sum-exps, in place, attention to other keys."""
    out.lerp_(more, torch.sigmoid(more_lse - lse).to(out.dtype).unsqueeze(-1))
    lse.copy_(torch.logaddexp(lse, more_lse))


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention [kv_heads, group, T, D] and the log-sum-exp [kv_heads, group, T] of its logits; q
    [kv_heads, group, T, D], k and v [kv_heads, S, D].

    `causal` wants T == S.
    """
    if q.device.type == "cpu":
        # The kernel goes by strides, so that each head of a group reads the same keys and no key is copied.
        k, v = (t.unsqueeze(1).expand(-1, q.shape[1], -1, -1) for t in (k, v))
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
        return out, lse
    shape = q.shape
    if causal:
        k, v = (t.repeat_interleave(shape[1], dim=0) for t in (k, v))
        q = q.flatten(0, 1)
    else:
        # Queries of a group stand in line behind the head of keys that they share.
        q = q.flatten(1, 2)
    out, lse = _on_accelerator(q, k, v, scale, causal=causal)
    return out.reshape(shape), lse.reshape(shape[:-1])


def _on_accelerator(q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    if q.device.type != "cuda" or q.dtype not in (torch.float16, torch.bfloat16):
        return plainly(q, k, v, scale, causal=causal)
    q, k, v = q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)
    return out[0], lse[0]


def plainly(q: Tensor, k: Tensor, v: Tensor, scale: float, *, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention [heads, T, D] and log-sum-exps [heads, T] by the formula, for devices without a kernel."""
    logits = (q @ k.transpose(-1, -2)).float() * scale
    if causal:
        logits = logits.masked_fill(torch.ones_like(logits[0], dtype=torch.bool).triu(1), -math.inf)
    lse = logits.logsumexp(-1)
    return (logits - lse.unsqueeze(-1)).exp().to(v.dtype) @ v, lse


def _of(piece: KeyValues | TokenSpan, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    if isinstance(piece, TokenSpan):
        return k[:, piece.start : piece.end], v[:, piece.start : piece.end]
    return piece.keys[layer], piece.values[layer]
