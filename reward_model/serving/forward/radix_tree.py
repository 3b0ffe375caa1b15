"""A radix tree of token sequences: each node holds a run of tokens, and what two sequences share is held once."""

from __future__ import annotations

from collections.abc import Sequence

from reward_model.serving.forward.cascade_attention import KeyValues
from reward_model.text.formatting import common

Ids = tuple[int, ...]
# One KeyValues for each member of an ensemble, of the same tokens.
MemberKeyValues = tuple[KeyValues, ...]


class Node:
    """Tokens `ids` behind those of `parent`, and the keys and values of them, if any are kept."""

    __slots__ = ("children", "ids", "kept", "parent", "sharers")

    def __init__(self, ids: Ids, parent: Node | None, kept: MemberKeyValues = ()) -> None:
        self.ids = ids
        self.parent = parent
        self.kept = kept
        # By the first token of each.
        self.children: dict[int, Node] = {}
        # Every node whose keys and values lie in the same tensors: this one, and those that were split off it.
        self.sharers = {self}

    @property
    def nbytes(self) -> int:
        """Memory of the keys and values of these tokens."""
        return sum(piece.nbytes for piece in self.kept)

    def split(self, count: int) -> Node:
        """Give the first `count` tokens to a new node above this one, which is returned. No tensor is copied.

        Other threads may read the tree meanwhile: they see the new node before this one has lost its first tokens, and
        at worst find fewer tokens than there are.
        """
        assert self.parent is not None
        head = Node(self.ids[:count], self.parent, tuple(piece.part(0, count) for piece in self.kept))
        head.children[self.ids[count]] = self
        self.parent.children[self.ids[0]] = head
        self.kept = tuple(piece.part(count, len(self.ids)) for piece in self.kept)
        self.ids, self.parent = self.ids[count:], head
        head.sharers = self.sharers
        self.sharers.add(head)
        return head


class RadixTree:
    """Sequences by salt: those of two salts share nothing."""

    def __init__(self) -> None:
        self._roots: dict[str | None, Node] = {}

    def known(self, ids: Ids, salt: str | None = None) -> int:
        """How many first tokens of `ids` the tree has. Any thread may ask while one changes the tree."""
        return self._walk(ids, salt)[1]

    def find(self, ids: Ids, salt: str | None = None) -> tuple[list[Node], int]:
        """The nodes along `ids`, and how many tokens they share with it; of the last node it may be a part."""
        return self._walk(ids, salt)

    def add(self, ids: Ids, salt: str | None = None) -> tuple[list[Node], int]:
        """Make the nodes of `ids`: returns the path, and how many tokens were there before. The last node is new, and
        without keys and values, if there were fewer than all."""
        path, length = self._walk(ids, salt)
        if path and (inside := length - sum(len(node.ids) for node in path[:-1])) < len(path[-1].ids):
            path[-1] = path[-1].split(inside)
        if length < len(ids):
            parent = path[-1] if path else self._roots.setdefault(salt, Node((), None))
            parent.children[ids[length]] = leaf = Node(ids[length:], parent)
            path.append(leaf)
        return path, length

    def remove(self, leaf: Node) -> None:
        """Take a node without children out."""
        assert leaf.parent is not None
        assert not leaf.children
        parent = leaf.parent
        del parent.children[leaf.ids[0]]
        if parent.parent is None and not parent.children:
            self._roots = {salt: root for salt, root in self._roots.items() if root is not parent}

    def _walk(self, ids: Ids, salt: str | None) -> tuple[list[Node], int]:
        node, path, length = self._roots.get(salt), list[Node](), 0
        while node is not None and length < len(ids) and (child := node.children.get(ids[length])) is not None:
            edge = child.ids
            shared = _shared(edge, ids[length : length + len(edge)])
            if shared:
                path.append(child)
            length += shared
            node = child if shared == len(edge) else None
        return path, length


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    # Comparing whole tuples is fifty times as fast as token by token, and edges mostly match.
    return len(one) if one == other else common(one, other)
