"""The scalar reward model: the first layers of a causal backbone and a linear head on one token's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class RewardModel(nn.Module):
    """r(x, y): an unbounded real for each (prompt, completion).

    The head reads the hidden state of the completion's last token (its end-of-turn token) in fp32.
    """

    def __init__(self, backbone: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(hidden_size, 1, dtype=torch.float32)
        # A small head starts every score near zero, so that early gradients shape the head, not the backbone.
        nn.init.normal_(self.head.weight, std=1.0 / (hidden_size + 1) ** 0.5 * 0.1)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        input_ids: Tensor,
        pool: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        """Scores in fp32, of the shape of `pool`.

        `input_ids` [B, T]; `pool`: positions of the completions' last tokens in the flattened [B * T];
        `attention_mask` [B, T] of 1 and 0, or an additive [B, 1, T, T]; `position_ids` [B, T].
        """
        states = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).last_hidden_state
        # Under autocast the head would run in bf16, whose steps of 0.4 % make ties of close candidates.
        with torch.autocast(states.device.type, enabled=False):
            scores: Tensor = self.head(states.flatten(0, 1)[pool].float()).squeeze(-1)
        return scores


def load_backbone(folder: str | Path, layers: int, dtype: torch.dtype) -> Any:
    """The first `layers` layers of a causal model, without its language-model head.

    Returns a Hugging Face decoder with its final norm; raises ValueError when it has fewer layers.
    """
    from transformers import AutoModel

    backbone = AutoModel.from_pretrained(str(folder), dtype=dtype, attn_implementation="sdpa")
    if layers > len(backbone.layers):
        raise ValueError(f"the base has {len(backbone.layers)} layers; {layers} cannot be kept")
    backbone.layers = backbone.layers[:layers]
    backbone.config.num_hidden_layers = layers
    return backbone
