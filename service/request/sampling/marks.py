"""Waits until the candidates of a request reach a mark (a number of tokens) or their end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from service.request.candidate import Candidate


class Marks:
    """One waiter; `advanced` is called whenever a candidate has got on."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._candidates = candidates
        self._tokens: float = math.inf
        self._reached = asyncio.Event()

    async def reached(self, tokens: int) -> list[Candidate]:
        """The candidates that still run once each of these has `tokens` tokens."""
        self._tokens = tokens
        self._reached.clear()
        self.advanced()
        await self._reached.wait()
        self._tokens = math.inf
        return [candidate for candidate in self._candidates if candidate.running]

    def advanced(self) -> None:
        """Look whether the mark is reached."""
        if all(not c.running or c.completion_tokens >= self._tokens for c in self._candidates):
            self._reached.set()
