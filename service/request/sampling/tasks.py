"""Tasks of one request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any


async def cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until each has ended."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*ending, return_exceptions=True)
