"""its_hub's best-of-n as a contestant, run by the interpreter of its own environment.

A JSON line with `messages` and `n` in, a JSON line with the winner's text and all completion tokens out.
The reward model is Winnow's scorer over HTTP: the same checkpoint for every contestant.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import aiohttp
from its_hub.api import AbstractOutcomeRewardModel, ChatMessage, ChatMessages
from its_hub.core.algorithms.bon import BestOfN
from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel


class ItsHubScorer(AbstractOutcomeRewardModel):  # type: ignore[misc]
    """Conversations that differ in their last message, scored as completions of one prompt."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url, self._session = url, session

    def score(self, messages: Any, **_: Any) -> Any:
        """Not used by the asynchronous algorithm."""
        raise NotImplementedError

    async def ascore(self, messages: Any, orchestrator: Any = None, **_: Any) -> list[float]:
        """Scores in the order of the conversations."""
        prompt = [{"role": m.role, "content": m.content} for m in messages[0][:-1]]
        body = {"prompt": prompt, "completions": [conversation[-1].content or "" for conversation in messages]}
        async with self._session.post(f"{self._url}/v1/score", json=body, raise_for_status=True) as response:
            results = (await response.json())["results"]
        return [result["score"] for result in sorted(results, key=lambda result: result["index"])]


async def _answer(policy: str, model: str, scorer: str, max_tokens: str) -> None:
    lm = OpenAICompatibleLanguageModel(
        f"{policy}/v1", "none", model, temperature=0.8, max_completion_tokens=int(max_tokens)
    )
    async with aiohttp.ClientSession() as session:
        algorithm = BestOfN(ItsHubScorer(scorer, session))
        for line in sys.stdin:
            asked = json.loads(line)
            messages = ChatMessages([ChatMessage(**message) for message in asked["messages"]])
            found = await algorithm.ainfer(lm, messages, asked["n"], return_response_only=False)
            tokens = found.usage.completion_tokens if found.usage else 0
            print(json.dumps({"text": found.the_one["content"], "tokens": tokens}), flush=True)
    await lm.close()


if __name__ == "__main__":
    asyncio.run(_answer(*sys.argv[1:]))
