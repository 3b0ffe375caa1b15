"""The KV cache of prompts and partial completions: bounded memory, least recently used first out."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from reward_model.serving.cascade_attention import KeyValues
from reward_model.text.formatting import common

Ids = tuple[int, ...]
# One KeyValues for each member of an ensemble, of the same tokens.
MemberKeyValues = tuple[KeyValues, ...]


@dataclass
class _Prompt:
    kept: MemberKeyValues
    completions: list[MemberKeyValues] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for kept in (self.kept, *self.completions) for piece in kept)


class PrefixCache:
    """At most `max_bytes` of keys and values, by the prompt's token ids. Used by one thread.

    What is evicted while a forward pass still uses it lives until that pass ends.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._prompts: OrderedDict[Ids, _Prompt] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._prompts)

    def __contains__(self, prompt: Ids) -> bool:
        """Whether the prompt is kept; other threads may ask this too."""
        return prompt in self._prompts

    def prompt(self, ids: Ids) -> MemberKeyValues | None:
        """What is kept of this prompt."""
        if (found := self._prompts.get(ids)) is None:
            return None
        self._prompts.move_to_end(ids)
        return found.kept

    def completion(self, prompt: Ids, ids: Ids) -> MemberKeyValues | None:
        """The kept completion of this prompt that shares the most first tokens with `ids`, cut to those and shorter
        than `ids`.

        A text that grew may be tokenised differently where it used to end: the tokens before that are still good.
        """
        found = self._prompts.get(prompt)
        shared, best = max(
            ((min(common(kept[0].ids, ids), len(ids) - 1), kept) for kept in (found.completions if found else ())),
            key=lambda pair: pair[0],
            default=(0, ()),
        )
        return tuple(piece.first(shared) for piece in best) if shared > 0 else None

    def put_prompt(self, kept: MemberKeyValues) -> None:
        """Keep a prompt, and drop the least recently used ones that no longer fit."""
        ids = kept[0].ids
        if ids in self._prompts:
            return
        self._prompts[ids] = _Prompt(kept)
        self.nbytes += self._prompts[ids].nbytes
        self._evict()

    def put_completion(self, prompt: Ids, kept: MemberKeyValues) -> None:
        """Keep a completion in place of the shorter one that it continues; nothing, where its prompt is gone."""
        if (found := self._prompts.get(prompt)) is None:
            return
        self.nbytes -= found.nbytes
        found.completions = [old for old in found.completions if not _begins(old[0].ids, kept[0].ids)]
        found.completions.append(kept)
        self.nbytes += found.nbytes
        self._evict()

    def end_completion(self, prompt: Ids, ids: Ids) -> None:
        """Drop what was kept of a completion that has ended."""
        if (found := self._prompts.get(prompt)) is None:
            return
        self.nbytes -= found.nbytes
        found.completions = [old for old in found.completions if not _begins(old[0].ids, ids)]
        self.nbytes += found.nbytes

    def _evict(self) -> None:
        while self.nbytes > self._max_bytes and self._prompts:
            _, dropped = self._prompts.popitem(last=False)
            self.nbytes -= dropped.nbytes


def _begins(a: Ids, b: Ids) -> bool:
    return b[: len(a)] == a
