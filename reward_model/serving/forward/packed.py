"""Scores many completions in one packed forward pass: what they share once, and only what the cache does not have."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reward_model.checkpoint.loaded_model import EnsembleModel, LoadedModel
from reward_model.checkpoint.sequence_classifier import PaddedClassifier
from reward_model.model.reward_model import Pooling, RewardModel
from reward_model.serving.forward.cascade_attention import NAME, Layout, Unsupported, register
from reward_model.serving.forward.pass_plan import Item, PassPlan, new_tokens
from reward_model.serving.forward.prefix_cache import PrefixCache


class PackedScorer:
    """Scores by a `LoadedModel`'s weights, with a cache of keys and values. Used by one thread."""

    def __init__(self, model: LoadedModel, max_bytes: int) -> None:
        """Raises Unsupported, and leaves the model as it was, where it cannot be run so."""
        self.cache = PrefixCache(sys.maxsize)
        # Tokens whose keys and values were found in the cache, since the start.
        self.reused = 0
        self._model = model
        modules = model.module.members if isinstance(model.module, EnsembleModel) else [model.module]
        self._members = [_member(module) for module in modules]
        self._attention_before = [member.backbone.config._attn_implementation for member in self._members]
        self._attend_by([register()] * len(self._members))
        self._token_bytes = 1
        try:
            self.score([Item((1, 2), (3, 4)), Item((1, 2), (3, 5))])
        except Unsupported:
            self.give_back()
            raise
        self._token_bytes = self.cache.nbytes // len(self.cache)
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
        scores = torch.zeros(len(items), len(self._members))
        try:
            plan = PassPlan(items, self.cache)
            self.reused += plan.reused
            if plan.ids:
                plan.choose_kept(self.cache, self._token_bytes)
                layouts = plan.layouts(len(self._members))
                for number, (member, layout) in enumerate(zip(self._members, layouts, strict=True)):
                    scores[:, number] = self._scores(member, number, items, plan, layout)
                plan.keep(self.cache, layouts)
        finally:
            self.cache.release()
        return self._model.combined(scores)

    def cost(self) -> Callable[[Item], int]:
        """Counts the new tokens of a pass, item by item. Safe in any thread."""
        return new_tokens(self.cache)

    def _scores(self, member: _Member, number: int, items: Sequence[Item], plan: PassPlan, layout: Layout) -> Tensor:
        """[B] of one member."""
        states = member.backbone(
            input_ids=torch.tensor([plan.ids], device=self._model.device),
            position_ids=torch.tensor([plan.positions], device=self._model.device),
            use_cache=False,
            layout=layout,
        ).last_hidden_state[0]
        if member.pooling == "mean_completion_tokens":
            for span in layout.spans:
                if span.captured is not None:
                    span.captured.states = states[span.start : span.start + span.kept].clone()
        scores = torch.zeros(len(items))
        if places := [place for place, item in enumerate(items) if item.completion]:
            pooled = torch.stack([_pooled(member, number, items[place], plan, place, states) for place in places])
            scores[places] = member.head(pooled, [items[place].locale for place in places]).float().cpu()
        return scores


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


def _pooled(member: _Member, number: int, item: Item, plan: PassPlan, place: int, states: Tensor) -> Tensor:
    """[H] in fp32: what the head reads of a completion."""
    if member.pooling == "last_completion_token":
        end = plan.ends[place]
        return states[end.start + end.new - 1].float()
    return plan.states(place, len(item.prompt), states, number).float().mean(0)
