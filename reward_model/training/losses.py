"""The loss, and the figures logged beside it."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Mean of -log sigmoid(r(x, y_w) - r(x, y_l)) over pairs; both [B] (Bradley and Terry, 1952)."""
    return -logsigmoid(chosen - rejected).mean()


def pair_accuracy(chosen: Tensor, rejected: Tensor) -> float:
    """Share of pairs whose winner scores higher; equal scores count half."""
    return float(((chosen > rejected).float() + 0.5 * (chosen == rejected).float()).mean())
