"""Scores many completions in one packed forward pass: each prompt once, and only the new tokens of each completion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reward_model.checkpoint.loaded_model import EnsembleModel, LoadedModel
from reward_model.checkpoint.sequence_classifier import PaddedClassifier
from reward_model.model.reward_model import Pooling, RewardModel
from reward_model.serving.cascade_attention import NAME, KeyValues, Layout, TokenSpan, Unsupported, register
from reward_model.serving.prefix_cache import Ids, MemberKeyValues, PrefixCache


@dataclass(frozen=True)
class Item:
    """A completion behind its prompt, as token ids, and the locale whose head may have a say.

    Without completion ids: a prompt to be read ahead. `stable` is how many of the completion's first tokens are to be
    remembered, because it still grows.
    """

    prompt: Ids
    completion: Ids = ()
    locale: str | None = None
    stable: int = 0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


class PackedScorer:
    """Scores by a `LoadedModel`'s weights, with a cache of keys and values. Used by one thread."""

    def __init__(self, model: LoadedModel, max_bytes: int) -> None:
        """Raises Unsupported, and leaves the model as it was, where it cannot be run so."""
        self.cache = PrefixCache(0)
        # Tokens whose keys and values were found in the cache, since the start.
        self.reused = 0
        self._model = model
        modules = model.module.members if isinstance(model.module, EnsembleModel) else [model.module]
        self._members = [_member(module) for module in modules]
        self._attention_before = [member.backbone.config._attn_implementation for member in self._members]
        self._attend_by([register()] * len(self._members))
        try:
            self.score([Item((1, 2), (3, 4)), Item((1, 2), (3, 5))])
        except Unsupported:
            self.give_back()
            raise
        self._max_bytes = max_bytes
        self.forget()

    def forget(self) -> None:
        """Empty the cache and its counts."""
        self.cache, self.reused = PrefixCache(self._max_bytes), 0

    def give_back(self) -> None:
        """Leave the model as it was, for another way to score."""
        self._attend_by(self._attention_before)

    @torch.inference_mode()
    def plainly(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """[B, 2] by transformers' own attention, each sequence whole and by itself."""
        self.give_back()
        try:
            return torch.cat([self._model.score_members([ids]) for ids in sequences])
        finally:
            self._attend_by([NAME] * len(self._members))

    def _attend_by(self, names: Sequence[str]) -> None:
        for member, name in zip(self._members, names, strict=True):
            member.backbone.set_attn_implementation(name)

    @torch.inference_mode()
    def score(self, items: Sequence[Item]) -> Tensor:
        """[B, 2]: score and disagreement of each item, as `LoadedModel.score_members` gives them; 0 for a prompt."""
        prompts = {prompt: self.cache.prompt(prompt) for prompt in dict.fromkeys(i.prompt for i in items if i.prompt)}
        begun = [self.cache.completion(item.prompt, item.completion) for item in items]
        self.reused += sum(len(kept[0].ids) for kept in (*prompts.values(), *begun) if kept is not None)
        rows = [_PackedRow(items, prompts, begun, number) for number in range(len(self._members))]
        found = torch.zeros(len(items), len(rows))
        if rows[0].ids:
            for number, (member, row) in enumerate(zip(self._members, rows, strict=True)):
                found[:, number] = self._scores(member, row)
            self._remember(rows)
        return self._model.combined(found)

    def cost(self) -> Callable[[Item], int]:
        """Counts the new tokens of a pass, at most, item by item. Safe in any thread."""
        prompts: set[Ids] = set()
        tokens = 0

        def add(item: Item) -> int:
            nonlocal tokens
            tokens += len(item.completion)
            if item.prompt not in prompts:
                prompts.add(item.prompt)
                tokens += 0 if item.prompt in self.cache else len(item.prompt)
            return tokens

        return add

    def _scores(self, member: _Member, row: _PackedRow) -> Tensor:
        """[B] of one member."""
        states = member.backbone(
            input_ids=torch.tensor([row.ids], device=self._model.device),
            position_ids=torch.tensor([row.positions], device=self._model.device),
            use_cache=False,
            layout=Layout([*row.prompts.values(), *(span for span, _ in row.completions.values())]),
        ).last_hidden_state[0]
        scores = torch.zeros(len(row.items))
        if places := list(row.completions):
            pooled = torch.stack([_pooled(member.pooling, states, *row.completions[place]) for place in places])
            scores[places] = member.head(pooled, [row.items[place].locale for place in places]).float().cpu()
        return scores

    def _remember(self, rows: Sequence[_PackedRow]) -> None:
        for prompt in rows[0].prompts:
            self.cache.put_prompt(tuple(_captured(row.prompts[prompt]) for row in rows))
        for place, item in enumerate(rows[0].items):
            if item.stable:
                self.cache.put_completion(item.prompt, tuple(row.grown(place) for row in rows))
            elif item.completion:
                self.cache.end_completion(item.prompt, item.completion)


class _PackedRow:
    """Prompts that the cache does not have, then the new tokens of each completion, beside those of its prompt."""

    def __init__(
        self,
        items: Sequence[Item],
        prompts: Mapping[Ids, MemberKeyValues | None],
        begun: Sequence[MemberKeyValues | None],
        member: int,
    ) -> None:
        """`prompts` and `begun`: what the cache has of the items' prompts and completions."""
        self.items = items
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.prompts: dict[Ids, TokenSpan] = {}
        # Place in `items` -> where its new tokens stand, and what the cache has of the completion before them.
        self.completions: dict[int, tuple[TokenSpan, KeyValues | None]] = {}
        before: dict[Ids, KeyValues | TokenSpan] = {}
        for prompt, cached in prompts.items():
            if cached is not None:
                before[prompt] = cached[member]
            else:
                before[prompt] = self.prompts[prompt] = self._place(prompt, 0, (), len(prompt))
        for place in sorted(range(len(items)), key=lambda place: items[place].prompt):
            item = items[place]
            if item.completion:
                seen = begun[place]
                known = None if seen is None else seen[member]
                begin = 0 if known is None else len(known.ids)
                sees = (before.get(item.prompt), known)
                span = self._place(
                    item.completion[begin:],
                    len(item.prompt) + begin,
                    tuple(piece for piece in sees if piece is not None),
                    max(0, item.stable - begin),
                )
                self.completions[place] = (span, known)

    def _place(self, ids: Ids, position: int, before: tuple[KeyValues | TokenSpan, ...], stable: int) -> TokenSpan:
        start = len(self.ids)
        self.ids += ids
        self.positions += range(position, position + len(ids))
        return TokenSpan(start, len(self.ids), before, KeyValues(ids[:stable]) if stable else None)

    def grown(self, place: int) -> KeyValues:
        """What is known now of a completion that grows."""
        span, known = self.completions[place]
        if known is None:
            return _captured(span)
        return known if span.capture is None else known.then(span.capture)


@dataclass(frozen=True)
class _Member:
    """One model: tokens to states by `backbone`, pooled states [B, H] and locales to scores [B] by `head`."""

    backbone: Any
    pooling: Pooling
    head: Callable[[Tensor, Sequence[str | None]], Tensor]


def _member(module: Any) -> _Member:
    if isinstance(module, RewardModel):
        member = _Member(module.backbone, module.pooling, module.score_pooled)
    elif isinstance(module, PaddedClassifier) and hasattr(module.model, "score"):
        member = _Member(module.model.base_model, "last_completion_token", module.score_pooled)
    else:
        raise Unsupported(f"{type(module).__name__} has no states to read")
    backbone, config = member.backbone, member.backbone.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if not getattr(backbone, "_supports_attention_backend", False) or kinds != {"full_attention"}:
        raise Unsupported(f"{type(backbone).__name__} does not attend to all before it")
    return member


def _pooled(pooling: Pooling, states: Tensor, span: TokenSpan, known: KeyValues | None) -> Tensor:
    """[H] in fp32: what the head reads of a completion whose last tokens are `span`."""
    new = states[span.start : span.end]
    if span.capture is not None:
        span.capture.states = new[: len(span.capture.ids)].clone()
    if pooling == "last_completion_token":
        return new[-1].float()
    before = [] if known is None or known.states is None else [known.states]
    return torch.cat([*before, new]).float().mean(0)


def _captured(span: TokenSpan) -> KeyValues:
    assert span.capture is not None
    return span.capture
