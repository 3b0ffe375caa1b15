"""The scalar reward model: a backbone's first layers and a linear head on the completion's hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

Pooling = Literal["last_completion_token", "mean_completion_tokens"]


class RewardModel(nn.Module):
    """r(x, y): an unbounded real for each (prompt, completion).

    The head reads, in fp32, the hidden state of the completion's last token (its end-of-turn token) or the mean
    over all its tokens. With `locales`, a completion of the i-th of them gets that locale's correction on top of the
    score that all share.
    """

    def __init__(
        self,
        backbone: nn.Module,
        hidden_size: int,
        pooling: Pooling = "last_completion_token",
        locales: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.locales = tuple(locales)
        self.encoder = is_encoder(backbone)
        # While this is set the backbone learns nothing, and costs no backward pass.
        self.head_only = False
        self.head = nn.Linear(hidden_size, 1 + len(self.locales), dtype=torch.float32)
        # A small head starts every score near zero, so that early gradients shape the head, not the backbone.
        nn.init.normal_(self.head.weight, std=1.0 / (hidden_size + 1) ** 0.5 * 0.1)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight[1:] = 0

    def forward(
        self,
        input_ids: Tensor,
        spans: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        locales: Tensor | None = None,
    ) -> Tensor:
        """Scores in fp32, of the shape of `spans` without its last dimension.

        `input_ids` [B, T]; `spans` [..., 2]: positions of the completions' first and last tokens in the flattened
        [B * T]; `attention_mask` [B, T] of 1 and 0, or an additive [B, 1, T, T]; `position_ids` [B, T];
        `locales`, of the scores' shape: 0 for none, i for the i-th locale's head.
        """
        pooled = self.pooled(input_ids, spans, attention_mask, position_ids)
        return self._head(pooled, locales)

    def score_pooled(self, pooled: Tensor, locales: Sequence[str | None]) -> Tensor:
        """Scores [B] of what `pooled` gave, for locales by name."""
        return self._head(pooled, torch.tensor([self.locale_number(name) for name in locales], device=pooled.device))

    def _head(self, pooled: Tensor, locales: Tensor | None) -> Tensor:
        # Under autocast the head would run in bf16, whose steps of 0.4 % make ties of close candidates.
        with torch.autocast(pooled.device.type, enabled=False):
            scores: Tensor = self.head(pooled)
        # A tensor of its own, not a view of `scores`: FSDP hangs its backward pass on what a module returns.
        shared = scores[..., 0].clone()
        if locales is None or not self.locales:
            return shared
        corrections = torch.cat([torch.zeros_like(scores[..., :1]), scores[..., 1:]], dim=-1)
        return shared + corrections.gather(-1, locales.unsqueeze(-1)).squeeze(-1)

    def pooled(
        self,
        input_ids: Tensor,
        spans: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """What the head reads, fp32, of the shape of `spans` with the hidden size as its last dimension."""
        with torch.no_grad() if self.head_only else nullcontext():
            states = self._states(input_ids, attention_mask, position_ids)
        with torch.autocast(states.device.type, enabled=False):
            return self._pool(states.flatten(0, 1), spans)

    def locale_number(self, locale: str | None) -> int:
        """Which head a locale has: its own, its language's ("de" for "de-AT"), or 0, the shared one alone."""
        for name in (locale or "", (locale or "").split("-")[0]):
            if name in self.locales:
                return 1 + self.locales.index(name)
        return 0

    def _states(self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if not self.encoder:
            inputs |= {"position_ids": position_ids, "use_cache": False}
        states: Tensor = self.backbone(**inputs).last_hidden_state
        return states

    def _pool(self, states: Tensor, spans: Tensor) -> Tensor:
        """[B * T, H] to [..., H]."""
        if self.pooling == "last_completion_token":
            return states[spans[..., 1]].float()
        flat = [states[first : last + 1].float().mean(0) for first, last in spans.reshape(-1, 2).tolist()]
        return torch.stack(flat).reshape(*spans.shape[:-1], states.shape[-1])


def is_encoder(backbone: nn.Module) -> bool:
    """Whether every token sees the whole text, as in BERT; such a model cannot share a prompt's states."""
    return hasattr(backbone, "encoder")


def layers_of(backbone: Any) -> nn.ModuleList:
    """The backbone's transformer layers."""
    found: nn.ModuleList = backbone.encoder.layer if is_encoder(backbone) else backbone.layers
    return found


def lora_targets(backbone: nn.Module) -> list[str]:
    """Names of the linear layers inside the transformer layers: what an adapter is put on."""
    return sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in layers_of(backbone).named_modules()
            if isinstance(module, nn.Linear)
        }
    )


def load_backbone(folder: str | Path, layers: int | None, dtype: torch.dtype) -> Any:
    """The first `layers` layers of a causal model or an encoder (None: all), without a language-model head.

    Raises ValueError when it has fewer layers.
    """
    from transformers import AutoModel

    backbone = AutoModel.from_pretrained(str(folder), dtype=dtype, attn_implementation="sdpa", trust_remote_code=False)
    return _first_layers(backbone, layers)


def backbone_shape(folder: str | Path, layers: int | None, dtype: torch.dtype) -> Any:
    """The same without its weights, from `config.json` alone: on the meta device, for arithmetic on sizes."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    with torch.device("meta"):
        backbone = AutoModel.from_config(config, dtype=dtype, attn_implementation="sdpa")  # type: ignore[no-untyped-call]
    return _first_layers(backbone, layers)


def _first_layers(backbone: Any, layers: int | None) -> Any:
    have = layers_of(backbone)
    if layers is not None and layers > len(have):
        raise ValueError(f"the base has {len(have)} layers; {layers} cannot be kept")
    kept = have[:layers]
    if is_encoder(backbone):
        backbone.encoder.layer = kept
        backbone.pooler = None
    else:
        backbone.layers = kept
    backbone.config.num_hidden_layers = len(kept)
    return backbone
