"""The KV cache of prompts and completions: a radix tree in bounded memory, least recently used leaves out first.

Sequences share what they have in common, token by token (RadixAttention: Zheng et al., 2024): the instructions that
all prompts of a company begin with, the turns of a conversation that grows, the parts of a completion that is scored
before it ends.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from reward_model.serving.forward.cascade_attention import KeyValues
from reward_model.serving.forward.radix_tree import Ids, MemberKeyValues, Node, RadixTree


class PrefixCache:
    """At most `max_bytes` of keys and values. Used by one thread; `known` and `nbytes` may be read by others."""

    def __init__(self, max_bytes: float) -> None:
        self._max_bytes = max_bytes
        self._tree = RadixTree()
        # Least recently used first. Whoever uses a node uses those above it afterwards, so the first is always a leaf.
        self._recency: OrderedDict[Node, None] = OrderedDict()
        self._in_use: set[Node] = set()
        self.nbytes = 0

    def __len__(self) -> int:
        """Tokens that are kept."""
        return sum(len(node.ids) for node in self._recency)

    def known(self, ids: Ids, salt: str | None = None) -> int:
        """How many first tokens of `ids` are kept, or about that while another thread changes the cache."""
        return self._tree.known(ids, salt)

    def use(self, ids: Ids, salt: str | None = None) -> tuple[list[Node], int]:
        """The nodes along `ids` and how many of its tokens they hold. They stay until `release`."""
        path, length = self._tree.find(ids, salt)
        self._in_use.update(path)
        self._touch(path)
        return path, length

    def release(self) -> None:
        """Nothing is in use any more."""
        self._in_use.clear()

    def make_room(self, nbytes: int) -> int:
        """Drop the least recently used leaves until there is room for `nbytes`; returns how much there is."""
        while self.nbytes + nbytes > self._max_bytes and self._recency:
            oldest = next(iter(self._recency))
            if oldest in self._in_use:
                break
            self._evict(oldest)
        return max(0, min(nbytes, int(self._max_bytes - self.nbytes)))

    def keep(self, ids: Ids, begin: int, kept: MemberKeyValues, salt: str | None = None) -> None:
        """Keep what was computed of `ids` from token `begin` on; the tokens before it must be there. `make_room` comes
        first."""
        path, length = self._tree.add(ids, salt)
        assert begin <= length
        self._recency.update(dict.fromkeys(path))
        if length < len(ids):
            # A part would hold on to the whole.
            path[-1].kept = kept if length == begin else _copied(part_of(kept, length - begin, len(ids) - begin))
            self.nbytes += path[-1].nbytes
        self._touch(path)

    def _touch(self, path: Sequence[Node]) -> None:
        for node in reversed(path):
            self._recency.move_to_end(node)

    def _evict(self, leaf: Node) -> None:
        del self._recency[leaf]
        self._tree.remove(leaf)
        self.nbytes -= leaf.nbytes
        leaf.sharers.discard(leaf)
        # What was once one node with this leaf would hold on to its memory.
        for node in list(leaf.sharers):
            node.kept, node.sharers = _copied(node.kept), {node}


def part_of(kept: MemberKeyValues, begin: int, end: int) -> MemberKeyValues:
    """Tokens `begin` to `end`, sharing memory with `kept`."""
    return tuple(piece.part(begin, end) for piece in kept)


def gathered(path: Sequence[Node], begin: int, end: int) -> MemberKeyValues:
    """Keys and values of tokens `begin` to `end` of the sequence along `path`; a copy if several nodes hold them.

    One piece costs one attention call in each layer, which is more than copying its tokens once.
    """
    parts, at = [], 0
    for node in path:
        first, last = max(begin - at, 0), min(end - at, len(node.ids))
        if first < last:
            parts.append(part_of(node.kept, first, last))
        at += len(node.ids)
    return tuple(KeyValues.joined(pieces) for pieces in zip(*parts, strict=True))


def _copied(kept: MemberKeyValues) -> MemberKeyValues:
    return tuple(piece.copy() for piece in kept)
