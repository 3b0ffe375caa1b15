"""Attention in pieces against the formula over all of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from reward_model.serving.forward.cascade_attention import (
    KeyValues,
    Layout,
    TokenSpan,
    attend,
    cascade_attention,
    plainly,
)


def some(heads: int, length: int) -> torch.Tensor:
    """[heads, length, 16], laid out as a model lays it out: token by token."""
    return torch.randn(length, heads, 16).transpose(0, 1)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "length", "keys", "causal"),
    [(9, 3, 50, 50, True), (4, 1, 33, 70, False), (8, 8, 1, 9, False), (6, 2, 900, 300, False)],
)
def test_a_group_of_heads_shares_its_keys(heads: int, kv_heads: int, length: int, keys: int, causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = some(heads, length), some(kv_heads, keys), some(kv_heads, keys)
    group = heads // kv_heads
    out, lse = attend(q.unflatten(0, (kv_heads, group)), k, v, 0.25, causal=causal)
    k, v = (t.repeat_interleave(group, dim=0) for t in (k, v))
    expected, expected_lse = plainly(q, k, v, 0.25, causal=causal)
    torch.testing.assert_close(out.flatten(0, 1), expected)
    torch.testing.assert_close(lse.flatten(0, 1), expected_lse)


def test_pieces_join_to_the_whole_and_what_is_kept_is_captured() -> None:
    # A cached piece of 5 tokens, 7 new ones behind it, and behind both two completions of 3 and 4.
    torch.manual_seed(1)
    q, k, v = some(4, 14), some(2, 14), some(2, 14)
    cached = KeyValues([some(2, 5)], [some(2, 5)])
    spans = [TokenSpan(0, 7), TokenSpan(7, 10), TokenSpan(10, 14, kept=2, captured=KeyValues())]
    layout = Layout(spans, [(cached, slice(0, 14)), (spans[0], slice(7, 14))])
    module = SimpleNamespace(layer_idx=0)
    out, _ = cascade_attention(module, q[None], k[None], v[None], None, scaling=0.25, layout=layout)
    for own in (slice(0, 0), slice(7, 10), slice(10, 14)):
        row = [*range(7), *range(own.start, own.stop)]
        keys, values = (torch.cat([c[0], t[:, row]], 1) for c, t in ((cached.keys, k), (cached.values, v)))
        padded = torch.cat([torch.zeros(4, 5, 16), q[:, row]], 1)
        keys, values = (t.repeat_interleave(2, dim=0) for t in (keys, values))
        expected, _ = plainly(padded, keys, values, 0.25, causal=True)
        torch.testing.assert_close(out[0, row].transpose(0, 1), expected[:, 5:])
    kept = spans[2].captured
    assert kept is not None
    torch.testing.assert_close(kept.keys[0], k[:, 10:12])
    assert kept.nbytes == 2 * 2 * 2 * 16 * 4
