"""Whether the policies and the scorer answer: asked on demand, remembered for a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Protocol

_FRESH_SECONDS = 1.0


class Checked(Protocol):
    """Something that can say whether it answers."""

    async def healthy(self) -> bool:
        """Whether it answers."""


class Readiness:
    """State of the gateway's upstreams by name."""

    def __init__(self, upstreams: Mapping[str, Checked]) -> None:
        self._upstreams = upstreams
        self._states: dict[str, bool] = {}
        self._at = float("-inf")

    async def states(self) -> dict[str, bool]:
        """Name -> whether it answers now, at most a second old."""
        if time.monotonic() - self._at > _FRESH_SECONDS:
            answers = await asyncio.gather(*(upstream.healthy() for upstream in self._upstreams.values()))
            self._states = dict(zip(self._upstreams, answers, strict=True))
            self._at = time.monotonic()
        return self._states
