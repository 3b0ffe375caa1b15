"""The policy's greedy answer to a prompt that was answered by best-of-N."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from service.audits.drawing import Greedy
from service.errors import SetupError, WinnowError
from service.settings import Settings
from service.store.rows import Row
from service.upstream.policy import HttpPolicy

_SECONDS = 120.0


@asynccontextmanager
async def asking(settings: Settings) -> AsyncIterator[Greedy]:
    """What asks each answer's own policy. Raises SetupError where one does not answer."""
    async with aiohttp.ClientSession() as session:

        async def ask(row: Row) -> str | None:
            """The text; None where the prompt was redacted, or another model answered it."""
            route = settings.routes[row["route"]]
            endpoint = settings.policy(route.policy)
            if row["redacted"] or row["versions"].get("policy") != endpoint.model:
                return None
            body = row["parameters"] | {"messages": row["prompt"], "temperature": 0.0}
            body.pop("seed", None)
            try:
                async with asyncio.timeout(_SECONDS):
                    completion = await HttpPolicy(endpoint, session).complete(body)
            except (WinnowError, TimeoutError) as error:
                why = str(error) or "no answer in time"
                raise SetupError(
                    f"the policy {endpoint.url} gave no greedy answer: {why}; start it, or draw with --greedy 0"
                ) from error
            content: str | None = completion["choices"][0]["message"].get("content")
            return content or None

        yield ask
