"""A tiny calibrated model, its scorer over a real uvicorn, and a model that can be held up or broken."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import torch
import uvicorn

from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.serving.app import create_app
from reward_model.serving.settings import ScorerSettings


@pytest.fixture
async def scorer(model: LoadedModel) -> AsyncIterator[httpx.AsyncClient]:
    async with Serving(model) as client:
        yield client


@pytest.fixture
def serving() -> type[Serving]:
    """`async with serving(model, **settings) as client`."""
    return Serving


class Serving:
    """A scorer of its own on a free port."""

    def __init__(self, model: LoadedModel, **settings: Any) -> None:
        self.app = create_app(model, ScorerSettings(**settings))

    async def __aenter__(self) -> httpx.AsyncClient:
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="error", timeout_graceful_shutdown=1))
        self.task = asyncio.create_task(self.server.serve())
        while not self.server.started:
            await asyncio.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30)
        return self.client

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        self.server.should_exit = True
        await self.task


class Faulty(torch.nn.Module):
    """Another module, which can be held up or made to fail."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.entered, self.gate = threading.Event(), threading.Event()
        self.gate.set()
        self.error: BaseException | None = None

    def forward(self, *given: Any, **named: Any) -> Any:
        self.entered.set()
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        return self.inner(*given, **named)


@pytest.fixture
def faulty(model: LoadedModel) -> LoadedModel:
    """`model`, whose `.module` is a Faulty."""
    return replace(model, module=Faulty(model.module))
