"""Several pairs in one row, each prompt token computed once.

A row is [prompt | completion 1 | completion 2 | ...]. Each completion sees its own prefix of the prompt and
itself. Two pairs share a row when one prompt's tokens begin the other's, as the turns of one dialogue do; so a
dialogue of eight judged turns costs its last prompt and sixteen short replies, not eight prompts and more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from reward_model.formatting import Formatter
from reward_model.training.data import Pair, as_completion


class TokenPair(NamedTuple):
    """A pair as token ids; `pair` is its position in the list it came from."""

    pair: int
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


@dataclass
class PackedRow:
    """One row: the longest prompt, and the pairs that branch from its prefixes."""

    prompt: list[int]
    pairs: list[TokenPair] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Length of the row."""
        return len(self.prompt) + sum(len(p.chosen) + len(p.rejected) for p in self.pairs)


class Batch(NamedTuple):
    """Tensors of B rows of T tokens with P pairs; `pool` [P, 2]: flat positions of (chosen, rejected) ends."""

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    pool: Tensor


def tokenize(pairs: Sequence[Pair], formatter: Formatter) -> list[TokenPair]:
    """Token ids of each pair, by the checkpoint's formatting rule."""
    return [
        TokenPair(
            number,
            formatter.prompt_ids(pair.prompt),
            formatter.completion_ids(as_completion(pair.chosen)),
            formatter.completion_ids(as_completion(pair.rejected)),
        )
        for number, pair in enumerate(pairs)
    ]


def pack(pairs: Sequence[TokenPair], groups: Sequence[str], max_tokens: int) -> list[PackedRow]:
    """Rows of at most `max_tokens` (a single pair may exceed it); `groups[i]` is the group of `pairs[i]`.

    Only pairs of one group are tried against each other: prompts of different groups share no meaningful prefix.
    """
    by_group: dict[str, list[TokenPair]] = defaultdict(list)
    for pair, group in zip(pairs, groups, strict=True):
        by_group[group].append(pair)
    rows: list[PackedRow] = []
    for members in by_group.values():
        open_rows: list[PackedRow] = []
        for pair in sorted(members, key=lambda p: len(p.prompt), reverse=True):
            row = next((r for r in open_rows if _fits(pair, r, max_tokens)), None)
            if row is None:
                row = PackedRow(pair.prompt)
                open_rows.append(row)
            row.pairs.append(pair)
        rows += open_rows
    return rows


def _fits(pair: TokenPair, row: PackedRow, max_tokens: int) -> bool:
    if row.tokens + len(pair.chosen) + len(pair.rejected) > max_tokens:
        return False
    # A generation prompt ("<|im_start|>assistant\n") also begins the assistant's turn of the longer prompt.
    return row.prompt[: len(pair.prompt)] == pair.prompt


def collate(rows: Sequence[PackedRow], pad: int, dtype: torch.dtype = torch.float32) -> Batch:
    """Pad rows to one length and build their masks."""
    longest = max(row.tokens for row in rows)
    input_ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    position_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    allowed = torch.eye(longest, dtype=torch.bool).repeat(len(rows), 1, 1)
    pool: list[list[int]] = []
    for number, row in enumerate(rows):
        ids, positions, ends = _lay_out(row, allowed[number])
        input_ids[number, : len(ids)] = torch.tensor(ids)
        position_ids[number, : len(ids)] = torch.tensor(positions)
        pool += [[number * longest + end for end in pair] for pair in ends]
    mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)
    return Batch(input_ids, mask.unsqueeze(1), position_ids, torch.tensor(pool))


def _lay_out(row: PackedRow, allowed: Tensor) -> tuple[list[int], list[int], list[list[int]]]:
    """Token ids and positions of a row, and where each pair's completions end; fills its [T, T] mask."""
    size = len(row.prompt)
    ids, positions, ends = list(row.prompt), list(range(size)), []
    allowed[:size, :size] = torch.ones(size, size, dtype=torch.bool).tril()
    for pair in row.pairs:
        prefix, pair_ends = len(pair.prompt), []
        for completion in (pair.chosen, pair.rejected):
            start, end = len(ids), len(ids) + len(completion)
            allowed[start:end, :prefix] = True
            allowed[start:end, start:end] = torch.ones(
                len(completion), len(completion), dtype=torch.bool
            ).tril()
            ids += completion
            positions += range(prefix, prefix + len(completion))
            pair_ends.append(end - 1)
        ends.append(pair_ends)
    return ids, positions, ends
