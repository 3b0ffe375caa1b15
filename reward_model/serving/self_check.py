"""Before a fast path serves, it scores a few conversations as plain transformers does, or it is not used.

The plain path is what training and the model's authors mean by its score, so a model on which the two
differ is still served: by the plain path, slower and right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.errors import BadInput
from reward_model.text.formatting import Completion, Message, parse_messages

# By how much the order of sums may move a score, as a fraction of the largest (of 1 if all are smaller). In bf16 a
# number has 8 bits, and the layers' roundings add up.
NOISE = {torch.float32: 1e-3, torch.bfloat16: 0.05}

_USER: dict[str, Any] = {"role": "user", "content": "My card was charged twice. Please refund one of them."}
_CALL = {"id": "call00001", "type": "function", "function": {"name": "refund", "arguments": {"amount": 5}}}
_PROMPTS: list[list[dict[str, Any]]] = [
    [_USER],
    [{"role": "system", "content": "Be brief."}, _USER],
    [_USER, {"role": "assistant", "content": " Which card? "}, {"role": "user", "content": "\nThe blue one."}],
]
_REPLIES = [
    Completion(content="I have refunded the second charge."),
    Completion(content=" No.\n"),
    Completion(content=""),
    Completion(tool_calls=[_CALL]),
]


def conversations(model: LoadedModel) -> Iterator[tuple[list[Message], list[Completion]]]:
    """Prompts with their replies; not those that the model's chat template refuses."""
    for raw in _PROMPTS:
        prompt = parse_messages(raw)
        try:
            model.formatter.sequences(prompt, _REPLIES)
        except BadInput:
            continue
        yield prompt, _REPLIES


def stated_noise(model: LoadedModel, scores: torch.Tensor) -> float:
    """By how much two right ways to compute these scores may differ."""
    dtype = next(model.module.parameters()).dtype
    return NOISE.get(dtype, NOISE[torch.bfloat16]) * max(1.0, float(scores.abs().max()))
