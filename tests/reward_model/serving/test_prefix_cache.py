"""The radix cache against a model of it that compares everything with everything."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_model.serving.forward.cascade_attention import KeyValues
from reward_model.serving.forward.prefix_cache import PrefixCache, gathered
from reward_model.serving.forward.radix_tree import Ids, MemberKeyValues, Node
from reward_model.text.formatting import common

# Two layers of one head and two numbers: keys and values; one member has states of one number too.
TOKEN_BYTES = 4 * (2 * (2 * 2 * 2) + 1)

# Few tokens and short runs, so that sequences share beginnings, end inside one another and split what is there.
sequences = st.lists(
    st.lists(st.sampled_from([(1, 1, 1), (2,), (3, 4), (1, 5), (2, 2, 2, 2)]), min_size=1, max_size=5).map(
        lambda runs: tuple(token for run in runs for token in run)
    ),
    min_size=1,
    max_size=4,
)
salts = st.sampled_from([None, "a"])


def computed(ids: Ids, begin: int) -> MemberKeyValues:
    """What two models "compute" of ids[begin:]: numbers that depend on all tokens up to each one."""
    marks = torch.tensor([zlib.crc32(repr(ids[: at + 1]).encode()) % 9973 for at in range(begin, len(ids))]).float()
    layers = [torch.stack([marks + layer, -marks], dim=1).unsqueeze(0) for layer in range(2)]

    def fresh() -> list[torch.Tensor]:
        return [layer.clone() for layer in layers]

    return KeyValues(fresh(), fresh(), marks.unsqueeze(1).clone()), KeyValues(fresh(), fresh())


@dataclass
class Run:
    """Tokens of a node, from `begin` to the end of the sequence that it ends, and when it was last used."""

    begin: int
    used: int


class NaiveCache:
    """Nodes by all tokens up to their end; every question looks at all of them."""

    def __init__(self, tokens: int) -> None:
        self.room = tokens
        self.runs: dict[Ids, Run] = {}
        self.in_use: set[Ids] = set()
        self.now = 0

    @property
    def tokens(self) -> int:
        return sum(len(ids) - run.begin for ids, run in self.runs.items())

    def known(self, ids: Ids) -> int:
        return max((common(end, ids) for end in self.runs), default=0)

    def use(self, ids: Ids) -> None:
        self.now += 1
        for end, run in self.runs.items():
            if common(end, ids) > run.begin:
                run.used = self.now
                self.in_use.add(end)

    def make_room(self, tokens: int) -> int:
        while self.runs and self.tokens + tokens > self.room:
            leaves = [end for end in self.runs if sum(other[: len(end)] == end for other in self.runs) == 1]
            oldest = min(leaves, key=lambda end: self.runs[end].used)
            if oldest in self.in_use:
                break
            del self.runs[oldest]
        return max(0, min(tokens, self.room - self.tokens))

    def keep(self, ids: Ids) -> None:
        known = self.known(ids)
        for end, run in list(self.runs.items()):
            if run.begin < known < len(end) and common(end, ids) == known:
                self.runs[end[:known]] = Run(run.begin, run.used)
                run.begin = known
        if known < len(ids):
            self.runs[ids] = Run(known, 0)
        self.use(ids)


def real_bytes(cache: PrefixCache) -> int:
    """Memory that the cache's tensors hold on to, whoever they are views of."""
    storages = {}
    for node in cache._recency:
        for piece in node.kept:
            for tensor in (*piece.keys, *piece.values, *([] if piece.states is None else [piece.states])):
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def one_pass(cache: PrefixCache, batch: Sequence[Ids], salt: str | None) -> list[tuple[Ids, int]]:
    """Use the batch, compute what is new and keep what there is room for, as a pass does; returns what was kept."""
    begins = [cache.use(ids, salt)[1] for ids in batch]
    new = sum(len(ids) - begin for ids, begin in zip(batch, begins, strict=True))
    room = cache.make_room(new * TOKEN_BYTES) // TOKEN_BYTES
    kept = []
    for ids, begin in zip(batch, begins, strict=True):
        if begin < len(ids) and len(ids) - begin <= room:
            room -= len(ids) - begin
            kept.append((ids, begin))
            cache.keep(ids, begin, computed(ids, begin), salt)
    cache.release()
    return kept


@given(st.lists(st.tuples(sequences, salts), max_size=12), st.integers(3, 40), sequences)
def test_it_has_what_a_naive_cache_has_in_the_memory_that_it_says(
    passes: list[tuple[list[Ids], str | None]], tokens: int, others: list[Ids]
) -> None:
    cache, naive = PrefixCache(tokens * TOKEN_BYTES), NaiveCache(tokens)

    def marked(ids: Ids, salt: str | None) -> Ids:
        # To the model a salt is a first token that takes no room.
        return tuple(token + (100 if salt else 0) for token in ids)

    for batch, salt in passes:
        kept = one_pass(cache, batch, salt)
        for ids in batch:
            naive.use(marked(ids, salt))
        wanted = sum(len(ids) - naive.known(marked(ids, salt)) for ids in batch)
        naive.make_room(wanted)
        for ids, _ in kept:
            naive.keep(marked(ids, salt))
        naive.in_use.clear()
        assert cache.nbytes == naive.tokens * TOKEN_BYTES <= tokens * TOKEN_BYTES
        assert real_bytes(cache) == cache.nbytes
        assert len(cache) == naive.tokens
        for ids in (*batch, *others):
            for own in (None, "a"):
                assert cache.known(ids, own) == naive.known(marked(ids, own))


@given(st.lists(sequences, min_size=1, max_size=8), st.integers(10, 60))
def test_what_is_gathered_is_what_was_computed(passes: list[list[Ids]], tokens: int) -> None:
    cache = PrefixCache(tokens * TOKEN_BYTES)
    for batch in passes:
        one_pass(cache, batch, None)
        for ids in batch:
            path, known = cache.use(ids)
            for begin in range(known):
                expected = computed(ids[:known], begin)
                for piece, other in zip(gathered(path, begin, known), expected, strict=True):
                    assert all(map(torch.equal, piece.keys, other.keys))
                    assert all(map(torch.equal, piece.values, other.values))
                    torch.testing.assert_close(piece.states, other.states, rtol=0, atol=0)
        cache.release()


def test_the_oldest_leaf_goes_first_and_what_is_above_another_stays() -> None:
    cache = PrefixCache(10 * TOKEN_BYTES)
    for ids in ((1, 2, 3, 4), (1, 2, 5, 6), (7, 8)):
        one_pass(cache, [ids], None)
    assert len(cache) == 8
    one_pass(cache, [(1, 2, 3, 4)], None)
    # Oldest by use: 5 6, then 7 8; the 1 2 above is as young as 3 4.
    one_pass(cache, [(9, 9, 9)], None)
    assert [cache.known(ids) for ids in ((1, 2, 3, 4), (1, 2, 5, 6), (7, 8), (9, 9, 9))] == [4, 2, 2, 3]
    one_pass(cache, [(6, 6, 6)], None)
    assert [cache.known(ids) for ids in ((1, 2, 3, 4), (7, 8), (9, 9, 9), (6, 6, 6))] == [4, 0, 3, 3]


def test_what_is_in_use_stays_however_much_room_is_asked_for() -> None:
    cache = PrefixCache(6 * TOKEN_BYTES)
    one_pass(cache, [(1, 2), (3, 4)], None)
    cache.use((1, 2, 9))
    assert cache.make_room(100 * TOKEN_BYTES) == 4 * TOKEN_BYTES
    assert [cache.known((1, 2)), cache.known((3, 4))] == [2, 0]
    cache.release()
    assert cache.make_room(100 * TOKEN_BYTES) == 6 * TOKEN_BYTES


def test_a_split_copies_nothing_until_a_part_goes() -> None:
    cache = PrefixCache(9 * TOKEN_BYTES)
    one_pass(cache, [(1, 2, 3, 4, 5)], None)
    (whole,) = cache._recency
    before = whole.kept[0].keys[0].untyped_storage().data_ptr()
    one_pass(cache, [(1, 2, 6)], None)

    def storage(node: Node) -> int:
        return node.kept[0].keys[0].untyped_storage().data_ptr()

    assert sorted(len(node.ids) for node in cache._recency) == [1, 2, 3]
    assert [storage(node) == before for node in cache._recency if len(node.ids) > 1] == [True, True]
    one_pass(cache, [(7, 7, 7, 7)], None)
    assert cache.known((1, 2, 3, 4, 5)) == 2, "its tail went"
    assert [storage(node) == before for node in cache._recency if len(node.ids) == 2] == [False]
    assert real_bytes(cache) == cache.nbytes == 7 * TOKEN_BYTES


@pytest.mark.parametrize("salt", ["a", ""])
def test_salts_share_nothing_and_leave_nothing_behind(salt: str) -> None:
    cache = PrefixCache(4 * TOKEN_BYTES)
    one_pass(cache, [(1, 2, 3)], salt)
    assert [cache.known((1, 2, 3), own) for own in (salt, None, "b")] == [3, 0, 0]
    one_pass(cache, [(4, 4, 4, 4)], None)
    assert list(cache._tree._roots) == [None]
