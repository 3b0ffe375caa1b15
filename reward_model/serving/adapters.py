"""Other servers' contracts over the same engine: vLLM's /classify and OpenRLHF's /get_reward."""

from __future__ import annotations

import math
import secrets
import time
from typing import Any

from reward_model.errors import BadInput
from reward_model.serving.engine import Engine, Result
from reward_model.serving.schemas import ClassifyRequest, RewardRequest
from reward_model.text.formatting import Completion, Tools, parse_messages


async def classify(engine: Engine, asked: ClassifyRequest) -> dict[str, Any]:
    """vLLM's classification of a one-label model: sigmoid of the score, or the raw score without activation."""
    result = await (
        _inputs(engine, asked) if asked.messages is None else _conversation(engine, asked.messages, asked.tools)
    )
    activated = asked.use_activation is not False
    data = [
        {"index": i, "label": "LABEL_0", "probs": [_sigmoid(score) if activated else score], "num_classes": 1}
        for i, score in enumerate(result.scores)
    ]
    return {
        "id": f"classify-{secrets.token_hex(16)}",
        "object": "list",
        "created": int(time.time()),
        "model": engine.model.id,
        "data": data,
        "usage": _usage(result),
    }


async def get_reward(engine: Engine, asked: RewardRequest) -> dict[str, Any]:
    """OpenRLHF's rewards: raw scores of texts in the chat template, prompt and reply."""
    result = await engine.score_texts([asked.query] if isinstance(asked.query, str) else asked.query)
    rewards = result.scores
    return {
        "rewards": rewards,
        "scores": rewards,
        "extra_logs": {"dummy_scores": rewards},
        "usage": _usage(result),
    }


async def _inputs(engine: Engine, asked: ClassifyRequest) -> Result:
    """`input` as vLLM takes it: one text or several, or their token ids."""
    given = asked.input
    if not given:
        raise BadInput("give `input` (a text, a list of texts, or token ids) or `messages`", "input")
    one = isinstance(given, str) or isinstance(given[0], int)
    return await engine.score_texts([given] if one else given)  # type: ignore[list-item, arg-type]


async def _conversation(engine: Engine, raw: list[dict[str, Any]], tools: Tools) -> Result:
    messages = parse_messages(raw)
    reply = messages.pop()
    if reply.role != "assistant" or not messages:
        raise BadInput("`messages` must end with the assistant's reply to be scored", "messages")
    completion = Completion(content=reply.plain(), tool_calls=reply.tool_calls)
    return await engine.score(messages, [completion], tools=tools)


def _usage(result: Result) -> dict[str, int]:
    tokens = result.prompt_tokens + result.completion_tokens
    return {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "completion_tokens": 0,
        "truncated_tokens": result.truncated_tokens,
    }


def _sigmoid(score: float) -> float:
    small = math.exp(-abs(score))
    return 1 / (1 + small) if score >= 0 else small / (1 + small)
