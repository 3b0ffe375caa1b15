"""Other servers' contracts over the same engine: vLLM's /classify and OpenRLHF's /get_reward."""

from __future__ import annotations

import math
import secrets
import time
from typing import Any

from reward_model.errors import BadInput
from reward_model.formatting import Completion, parse_messages
from reward_model.serving.engine import Engine
from reward_model.serving.schemas import ClassifyRequest, RewardRequest


async def classify(engine: Engine, asked: ClassifyRequest) -> dict[str, Any]:
    """vLLM's classification of a one-label model: sigmoid of the score, or the raw score without activation."""
    scores, tokens = await (_texts(engine, asked) if asked.messages is None else _conversation(engine, asked))
    activated = asked.use_activation is not False
    data = [
        {"index": i, "label": "LABEL_0", "probs": [_sigmoid(s) if activated else s], "num_classes": 1}
        for i, s in enumerate(scores)
    ]
    return {
        "id": f"classify-{secrets.token_hex(16)}",
        "object": "list",
        "created": int(time.time()),
        "model": engine.model.id,
        "data": data,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
    }


async def get_reward(engine: Engine, asked: RewardRequest) -> dict[str, Any]:
    """OpenRLHF's rewards: raw scores of texts in the chat template, prompt and reply."""
    rewards, _ = await engine.score_texts([asked.query] if isinstance(asked.query, str) else asked.query)
    return {"rewards": rewards, "scores": rewards, "extra_logs": {"dummy_scores": rewards}}


async def _texts(engine: Engine, asked: ClassifyRequest) -> tuple[list[float], int]:
    if not asked.input:
        raise BadInput("give `input` (a text or a list of texts) or `messages`", "input")
    return await engine.score_texts([asked.input] if isinstance(asked.input, str) else asked.input)


async def _conversation(engine: Engine, asked: ClassifyRequest) -> tuple[list[float], int]:
    messages = parse_messages(asked.messages)
    reply = messages.pop()
    if reply.role != "assistant" or not messages:
        raise BadInput("`messages` must end with the assistant's reply to be scored", "messages")
    result = await engine.score(messages, [Completion(content=reply.text())])
    return result.scores, result.prompt_tokens + result.completion_tokens


def _sigmoid(score: float) -> float:
    small = math.exp(-abs(score))
    return 1 / (1 + small) if score >= 0 else small / (1 + small)
