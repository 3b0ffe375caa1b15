"""Several pairs in one row, each prompt token and each reply computed once.

A row is [prompt | reply 1 | reply 2 | ...]. Each reply sees its own prefix of the prompt and itself. Two
pairs share a row when one prompt's tokens begin the other's, as the turns of one dialogue do; and a reply
that stands in several pairs of a prompt stands in the row once. A dialogue of eight judged turns costs its
last prompt and its short replies, not eight prompts and more. Where nothing may be shared (an encoder, whose
prompt sees the reply), `collate_apart` lays the same rows out as one reply each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from reward_model.labels import Pair, as_completion
from reward_model.text.formatting import Formatter


class TokenPair(NamedTuple):
    """A pair as token ids; `pair` is its position in the list it came from."""

    pair: int
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class Reply(NamedTuple):
    """A reply in a row: how many of the prompt's tokens it follows, and its own tokens."""

    prefix: int
    ids: tuple[int, ...]


class PackedRow:
    """One row: the longest prompt, the distinct replies that branch from its prefixes, and their pairs."""

    def __init__(self, prompt: list[int]) -> None:
        self.prompt = prompt
        self.pairs: list[TokenPair] = []
        self.replies: dict[Reply, int] = {}
        self.tokens = len(prompt)

    def accepts(self, pair: TokenPair, max_tokens: int) -> bool:
        """Whether the pair branches from this prompt and still fits."""
        new = sum(len(reply.ids) for reply in {*replies_of(pair)} - self.replies.keys())
        # The generation prompt, "<|im_start|>assistant", also begins the assistant's turn of a longer prompt.
        return self.tokens + new <= max_tokens and self.prompt[: len(pair.prompt)] == pair.prompt

    def add(self, pair: TokenPair) -> None:
        """Put the pair in this row."""
        self.pairs.append(pair)
        for reply in replies_of(pair):
            if reply not in self.replies:
                self.replies[reply] = self.tokens
                self.tokens += len(reply.ids)

    def spans(self, offset: int) -> list[list[tuple[int, int]]]:
        """First and last position, from `offset` on, of each pair's (chosen, rejected)."""
        return [[self._span(reply, offset) for reply in replies_of(pair)] for pair in self.pairs]

    def _span(self, reply: Reply, offset: int) -> tuple[int, int]:
        start = offset + self.replies[reply]
        return start, start + len(reply.ids) - 1


class Batch(NamedTuple):
    """B rows of T tokens with P pairs; `spans` [P, 2, 2]: flat first and last positions of (chosen, rejected)."""

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    spans: Tensor


def replies_of(pair: TokenPair) -> tuple[Reply, Reply]:
    """The pair's (chosen, rejected), as replies in a row."""
    prefix = len(pair.prompt)
    return Reply(prefix, tuple(pair.chosen)), Reply(prefix, tuple(pair.rejected))


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

    Only pairs of one group are tried against each other: prompts of different groups share no useful prefix.
    """
    by_group: dict[str, list[TokenPair]] = defaultdict(list)
    for pair, group in zip(pairs, groups, strict=True):
        by_group[group].append(pair)
    rows: list[PackedRow] = []
    for members in by_group.values():
        open_rows: list[PackedRow] = []
        for pair in sorted(members, key=lambda p: len(p.prompt), reverse=True):
            row = next((r for r in open_rows if r.accepts(pair, max_tokens)), None)
            if row is None:
                row = PackedRow(pair.prompt)
                open_rows.append(row)
            row.add(pair)
        rows += open_rows
    return rows


def one_pair_each(rows: Sequence[PackedRow]) -> list[PackedRow]:
    """The same pairs, a row for each: where nothing is shared, a row of many pairs would be many times its tokens."""
    alone = [(PackedRow(pair.prompt), pair) for row in rows for pair in row.pairs]
    for row, pair in alone:
        row.add(pair)
    return [row for row, _ in alone]


def batches(rows: Sequence[PackedRow], token_budget: int) -> Iterator[list[PackedRow]]:
    """Rows by length, as many at a time as fit the budget when padded; a longer row comes alone."""
    chunk: list[PackedRow] = []
    for row in sorted(rows, key=lambda row: row.tokens):
        if chunk and row.tokens * (len(chunk) + 1) > token_budget:
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk


def collate(rows: Sequence[PackedRow], pad: int, dtype: torch.dtype = torch.float32) -> Batch:
    """Pad rows to one length and build their additive masks, in `dtype`."""
    longest = max(row.tokens for row in rows)
    input_ids = torch.full((len(rows), longest), pad, dtype=torch.long)
    position_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    # Padding sees itself, so that no row of the softmax is empty.
    allowed = torch.eye(longest, dtype=torch.bool).repeat(len(rows), 1, 1)
    spans: list[list[tuple[int, int]]] = []
    for number, row in enumerate(rows):
        _lay_out(row, input_ids[number], position_ids[number], allowed[number])
        spans += row.spans(number * longest)
    mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)
    return Batch(input_ids, mask.unsqueeze(1), position_ids, torch.tensor(spans))


def collate_apart(rows: Sequence[PackedRow], pad: int) -> Batch:
    """The same pairs with nothing shared: every reply behind a prompt of its own, under a [B, T] mask."""
    pairs = [pair for row in rows for pair in row.pairs]
    texts = [(pair.prompt, reply.ids) for pair in pairs for reply in replies_of(pair)]
    lengths = torch.tensor([len(prompt) + len(reply) for prompt, reply in texts])
    longest = int(lengths.max())
    input_ids = torch.full((len(texts), longest), pad, dtype=torch.long)
    for line, (prompt, reply) in zip(input_ids, texts, strict=True):
        line[: len(prompt) + len(reply)] = torch.tensor([*prompt, *reply])
    places = torch.arange(longest)
    starts = torch.arange(len(texts)) * longest
    first = starts + torch.tensor([len(prompt) for prompt, _ in texts])
    spans = torch.stack([first, starts + lengths - 1], dim=1).reshape(len(pairs), 2, 2)
    mask = (places < lengths.unsqueeze(1)).long()
    return Batch(input_ids, mask, places.repeat(len(texts), 1), spans)


def _lay_out(row: PackedRow, ids: Tensor, positions: Tensor, allowed: Tensor) -> None:
    """Write one row: its token ids [T], their positions [T], and who sees whom [T, T]."""
    size = len(row.prompt)
    ids[:size] = torch.tensor(row.prompt)
    positions[:size] = torch.arange(size)
    allowed[:size, :size] = torch.ones(size, size, dtype=torch.bool).tril()
    for reply, start in row.replies.items():
        length = len(reply.ids)
        end = start + length
        ids[start:end] = torch.tensor(reply.ids)
        positions[start:end] = torch.arange(reply.prefix, reply.prefix + length)
        allowed[start:end, : reply.prefix] = True
        allowed[start:end, start:end] = torch.ones(length, length, dtype=torch.bool).tril()
