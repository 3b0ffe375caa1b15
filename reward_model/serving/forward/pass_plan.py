"""Plans a packed pass: which tokens of a batch are new, where they stand in the row, and what each of them sees.

The sequences of a batch form a tree. A segment is a run of tokens that some of them share: what the cache has of it,
then what is new. Segments stand in the row in the order of a walk through the tree, so that whatever sees a segment
stands behind it, side by side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reward_model.serving.forward.cascade_attention import KeyValues, Layout, TokenSpan
from reward_model.serving.forward.prefix_cache import PrefixCache, gathered
from reward_model.serving.forward.radix_tree import Ids, MemberKeyValues, Node, RadixTree
from reward_model.text.formatting import common

# What is shared costs an attention call in each layer. Fewer tokens than this are cheaper to compute again.
_WORTH_SHARING = 4


@dataclass(frozen=True)
class Item:
    """A completion behind its prompt, as token ids, and the locale whose head may have a say.

    Without completion ids: a prompt to be read ahead. The prompt and the completion's first `stable` tokens are to be
    remembered: a completion that still grows will change behind them. Items with different salts share nothing.
    """

    prompt: Ids
    completion: Ids = ()
    locale: str | None = None
    stable: int = 0
    salt: str | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)

    @property
    def ids(self) -> Ids:
        """The whole sequence."""
        return self.prompt + self.completion

    @property
    def shareable(self) -> int:
        """Its last token's state is read, so that token is always its own and always computed."""
        return len(self) - 1 if self.completion else len(self)


@dataclass
class _Sequence:
    """A sequence of the batch: its tokens, what the cache has of it, and up to where it is to be remembered."""

    ids: Ids
    shareable: int
    remembered: int
    path: list[Node]
    known: int
    salt: str | None


@dataclass
class Segment:
    """Tokens `begin` to `end` of a sequence, those from `known` on new: they stand in the row from `start`."""

    above: Segment | None
    sequence: _Sequence
    shared: bool
    begin: int
    known: int
    end: int
    remembered: int
    start: int = 0
    # Where everything that sees this segment ends.
    stop: int = 0
    # How many of its new tokens the cache takes in.
    kept: int = 0
    # What the cache has of it.
    cached: MemberKeyValues = ()

    @property
    def new(self) -> int:
        """How many tokens are computed."""
        return self.end - self.known

    def add_to(self, layout: Layout, member: int) -> None:
        """Its new tokens, and who sees them and the cached ones."""
        new_stop = self.start + self.new
        # Prompts that were read ahead twice share what nobody sees.
        if self.cached and self.start < self.stop:
            layout.seen.append((self.cached[member], slice(self.start, self.stop)))
        if self.new:
            span = TokenSpan(self.start, new_stop, self.kept, KeyValues() if self.kept else None)
            layout.spans.append(span)
            if new_stop < self.stop:
                layout.seen.append((span, slice(new_stop, self.stop)))


class PassPlan:
    """The row of a batch: `ids` and their `positions`, and for each item the segment that ends it (none where nothing
    is new)."""

    def __init__(self, items: Sequence[Item], cache: PrefixCache) -> None:
        """Marks what the cache has of `items` as in use; the caller releases it."""
        self.segments: list[Segment] = []
        self.ends: dict[int, Segment] = {}
        self._sequences = [_looked_up(item, cache) for item in items]
        by_salt: defaultdict[str | None, list[int]] = defaultdict(list)
        for place in sorted(range(len(items)), key=lambda place: self._sequences[place].ids):
            by_salt[items[place].salt].append(place)
        for group in by_salt.values():
            self._lay_out(group)
        self.ids: list[int] = []
        self.positions: list[int] = []
        for segment in self.segments:
            segment.start = len(self.ids)
            self.ids += segment.sequence.ids[segment.known : segment.end]
            self.positions += range(segment.known, segment.end)
            segment.stop = len(self.ids)
        for segment in reversed(self.segments):
            if segment.above is not None:
                segment.above.stop = max(segment.above.stop, segment.stop)

    @property
    def reused(self) -> int:
        """Tokens that come from the cache."""
        return sum(segment.known - segment.begin for segment in self.segments)

    def _lay_out(self, group: list[int]) -> None:
        """Segments of sequences in order; a stack instead of recursion, because texts may nest deeply."""
        stack: list[tuple[list[int], int, Segment | None]] = [(group, 0, None)]
        while stack:
            group, begin, above = stack.pop()
            if len(group) == 1:
                self._end(group[0], begin, above)
                continue
            # In order, what the first and the last share is shared by all.
            first, last = self._sequences[group[0]], self._sequences[group[-1]]
            end = min(_common(first.ids, last.ids), *(self._sequences[place].shareable for place in group))
            if end - begin >= _WORTH_SHARING:
                remembered = max(self._sequences[place].remembered for place in group)
                above = Segment(above, first, True, begin, _known(first, begin, end), end, remembered)
                self.segments.append(above)
                begin = end
            stack += [(part, begin, above) for part in reversed(self._parts(group, end))]

    def _parts(self, group: list[int], at: int) -> list[list[int]]:
        """A group by the token at `at`; what has nothing more to share is alone."""
        parts: list[list[int]] = []
        token = None
        for place in group:
            sequence = self._sequences[place]
            if sequence.shareable <= at:
                parts.append([place])
                token = None
            elif sequence.ids[at] == token:
                parts[-1].append(place)
            else:
                parts.append([place])
                token = sequence.ids[at]
        return parts

    def _end(self, place: int, begin: int, above: Segment | None) -> None:
        sequence = self._sequences[place]
        end = len(sequence.ids)
        if sequence.known < end:
            known = _known(sequence, begin, end)
            self.ends[place] = Segment(above, sequence, False, begin, known, end, sequence.remembered)
            self.segments.append(self.ends[place])

    def choose_kept(self, cache: PrefixCache, token_bytes: int) -> None:
        """Decide which new tokens the cache takes in, and make room for them there. What is shared goes first."""
        wanted = {id(s): max(0, min(s.end, s.remembered) - s.known) for s in self.segments}
        room = cache.make_room(token_bytes * sum(wanted.values())) // token_bytes
        for segment in sorted(self.segments, key=lambda segment: not segment.shared):
            above = segment.above
            if above is None or above.kept == above.new:
                segment.kept = min(room, wanted[id(segment)])
                room -= segment.kept

    def layouts(self, members: int) -> list[Layout]:
        """What each member's attention goes by."""
        layouts = [Layout() for _ in range(members)]
        for segment in self.segments:
            if segment.known > segment.begin:
                segment.cached = gathered(segment.sequence.path, segment.begin, segment.known)
            for number, layout in enumerate(layouts):
                segment.add_to(layout, number)
        return layouts

    def states(self, place: int, begin: int, row: Tensor, member: int) -> Tensor:
        """States [L, H] of an item's tokens from `begin` on, of which the row has the new ones."""
        parts, segment = [], self.ends.get(place)
        while segment is not None and segment.end > begin:
            first = max(begin - segment.known, 0)
            parts.append(row[segment.start + first : segment.start + segment.new])
            if begin < segment.known and segment.cached:
                cached = segment.cached[member].states
                assert cached is not None
                parts.append(cached[max(begin - segment.begin, 0) :])
            segment = segment.above
        return torch.cat(parts[::-1])

    def keep(self, cache: PrefixCache, layouts: Sequence[Layout]) -> None:
        """Hand over to the cache what the pass has captured."""
        computed = [segment for segment in self.segments if segment.new]
        for segment, *spans in zip(computed, *(layout.spans for layout in layouts), strict=True):
            if segment.kept:
                ids = segment.sequence.ids[: segment.known + segment.kept]
                captured = tuple(span.captured for span in spans if span.captured is not None)
                cache.keep(ids, segment.known, captured, segment.sequence.salt)


def new_tokens(cache: PrefixCache) -> Callable[[Item], int]:
    """Counts the new tokens of a pass, item by item: about, and safe in any thread."""
    batch = RadixTree()
    tokens = 0

    def add(item: Item) -> int:
        nonlocal tokens
        ids = item.ids
        _, before = batch.add(ids, item.salt)
        tokens += len(item) - min(max(before, cache.known(ids, item.salt)), item.shareable)
        return tokens

    return add


def _looked_up(item: Item, cache: PrefixCache) -> _Sequence:
    ids = item.ids
    path, known = cache.use(ids, item.salt)
    remembered = len(item.prompt) + item.stable
    return _Sequence(ids, item.shareable, remembered, path, min(known, item.shareable), item.salt)


def _known(sequence: _Sequence, begin: int, end: int) -> int:
    """Up to where the cache has what is between."""
    known = min(max(sequence.known, begin), end)
    return known if known == end or known - begin >= _WORTH_SHARING else begin


def _common(one: Ids, other: Ids) -> int:
    return len(one) if one == other else common(one, other)
