"""A gateway on a real uvicorn, over a policy that is a real HTTP server and a scorer faked at its seam."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from routing.router import RouteDecision
from service.app import create_app
from service.errors import ScorerLate, ScorerUnavailable
from service.keys.key_file import add_key
from service.reviews.webhook import WebhookPace
from service.settings import Settings, load_settings
from service.store.database import check_database
from service.telemetry.otel import Tracing
from service.upstream.scorer import Scored, ScoreReply, ServedModel, Stopping

ACCEPTABLE = {
    "id": "fake@1/platt",
    "method": "platt",
    "event": "acceptable",
    "labels": 200,
    "date": "2026-11-01",
    "selection": {"n": 8, "stopping_rule": "all_scored"},
    "ece": 0.05,
    "brier": 0.1,
}


@dataclass
class Script:
    """What the fake policy says to one request: pieces of text with a pause before each, then how it ends."""

    pieces: list[str]
    pause: float = 0.0
    finish_reason: str = "stop"
    die_after: int | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)


class FakePolicy:
    """vLLM-shaped: streams chunks with continuous usage; remembers bodies and which streams were cut off."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.finished = 0
        self.cut_off = 0
        self.answer: Callable[[dict[str, Any], int], Script | Response] = lambda _, i: Script([f"reply {i}"])

    def app(self) -> Starlette:
        models = Route("/v1/models", lambda _: JSONResponse({"data": []}))
        return Starlette(routes=[Route("/v1/chat/completions", self.complete, methods=["POST"]), models])

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        number = len(self.bodies)
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        answer = self.answer(body, number)
        if isinstance(answer, Response):
            return answer
        if not body.get("stream"):
            return await self._whole(request, answer)
        options = body.get("stream_options") or {}
        return StreamingResponse(self._stream(answer, options), media_type="text/event-stream")

    async def _whole(self, request: Request, script: Script) -> Response:
        for count, _ in enumerate(script.pieces, 1):
            await asyncio.sleep(script.pause)
            if await request.is_disconnected():
                self.cut_off += 1
                return Response(status_code=499)
            if script.die_after is not None and count > script.die_after:
                return JSONResponse({"error": {"message": "the engine died"}}, 500)
        self.finished += 1
        message: dict[str, Any] = {"role": "assistant", "content": "".join(script.pieces)}
        calls = [{k: v for k, v in call.items() if k != "index"} for call in script.tool_calls]
        message |= {"tool_calls": calls} if calls else {}
        choice = {"index": 0, "message": message, "finish_reason": script.finish_reason}
        tokens = len(script.pieces)
        usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
        return JSONResponse({"id": "chatcmpl-upstream", "model": "upstream", "choices": [choice], "usage": usage})

    async def _stream(self, script: Script, options: dict[str, Any]) -> AsyncIterator[str]:
        done, always = False, bool(options.get("continuous_usage_stats"))
        try:
            yield _chunk({"role": "assistant", "content": ""}, 0 if always else None)
            for count, piece in enumerate(script.pieces, 1):
                await asyncio.sleep(script.pause)
                if script.die_after is not None and count > script.die_after:
                    return
                yield _chunk({"content": piece}, count if always else None)
            tokens = len(script.pieces)
            if script.tool_calls:
                yield _chunk({"tool_calls": script.tool_calls}, tokens if always else None)
            yield _chunk({}, tokens if always else None, script.finish_reason)
            if options.get("include_usage"):
                yield _chunk(None, tokens)
            yield "data: [DONE]\n\n"
            done = True
        finally:
            self.finished += done
            self.cut_off += not done


def _chunk(delta: dict[str, Any] | None, tokens: int | None, finish_reason: str | None = None) -> str:
    body: dict[str, Any] = {
        "id": "chatcmpl-upstream",
        "object": "chat.completion.chunk",
        "created": 1_760_000_000,
        "model": "upstream",
        "choices": [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    if tokens is not None:
        body["usage"] = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"


class FakeScorer:
    """Scores by a function of the text; can be slow, can fail."""

    def __init__(self) -> None:
        self.value: Callable[[str], float] = lambda text: float(len(text))
        self.probability: Callable[[float], float | None] = lambda score: 0.9
        self.disagreement: Callable[[float], float | None] = lambda score: None
        self.calibrator: dict[str, Any] | None = dict(ACCEPTABLE)
        self.pause = 0.0
        self.down = False
        self.late: Callable[[str], bool] = lambda text: False
        self.calls: list[dict[str, Any]] = []
        self.partial_calls: list[dict[str, Any]] = []
        self.stopping = Stopping()
        self.prefilled: list[str] = []
        self.salts: set[str | None] = set()
        self.tools: list[Any] = []

    async def resolve(self, orm: str, *, fresh: bool = False) -> ServedModel:
        if self.down:
            raise ScorerUnavailable("the scorer could not be reached")
        return ServedModel("fake@1", self.stopping)

    async def prefill(
        self,
        prompt: list[dict[str, Any]],
        orm: str,
        timeout_ms: int = 10_000,
        *,
        tools: list[dict[str, Any]] | None = None,
        cache_salt: str | None = None,
    ) -> None:
        self.prefilled.append(orm)
        self.tools.append(tools)
        self.salts.add(cache_salt)

    async def score(
        self,
        prompt: list[dict[str, Any]],
        completions: list[dict[str, Any]],
        orm: str,
        route: str,
        deadline_ms: int,
        locale: str | None = None,
        *,
        stopping_rule: str | None = None,
        partial: bool = False,
        tools: list[dict[str, Any]] | None = None,
        cache_salt: str | None = None,
    ) -> ScoreReply:
        self.salts.add(cache_salt)
        self.tools.append(tools)
        call = {"completions": completions, "orm": orm, "route": route, "locale": locale}
        (self.partial_calls if partial else self.calls).append(call | {"stopping_rule": stopping_rule})
        await asyncio.sleep(self.pause)
        if self.down:
            raise ScorerUnavailable("the scorer could not be reached")
        if any(self.late(completion["content"]) for completion in completions):
            raise ScorerLate("the scorer answered 504: no time left")
        scores = [self.value(completion["content"]) for completion in completions]
        results = [
            Scored(c["index"], s, self.probability(s) if self.calibrator else None, self.disagreement(s))
            for c, s in zip(completions, scores, strict=True)
        ]
        return ScoreReply(orm, self.calibrator, results)

    async def healthy(self) -> bool:
        return not self.down


class KeywordRouter:
    """`charged` is billing, `stolen` is fraud."""

    def quick(self, messages: Any) -> RouteDecision:
        return self.route(messages)

    def route(self, messages: Any) -> RouteDecision:
        text = str(messages)
        if "charged" in text:
            return RouteDecision("billing", True, 0.97)
        return RouteDecision("fraud", True, 0.99) if "stolen" in text else RouteDecision("default", False, 0.02)


@dataclass
class Gateway:
    """A running gateway and its fakes."""

    url: str
    key: str
    keys_file: Path
    policy: FakePolicy
    scorer: FakeScorer
    registry: CollectorRegistry
    settings: Settings
    http: httpx.AsyncClient
    openai: openai.AsyncOpenAI

    async def ask(self, text: str = "I was charged twice", **fields: Any) -> httpx.Response:
        body = {"model": "winnow", "messages": [{"role": "user", "content": text}], **fields}
        return await self.post(json=body)

    async def post(self, **kwargs: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}", **kwargs.pop("headers", {})}
        return await self.http.post(f"{self.url}/v1/chat/completions", headers=headers, **kwargs)


@asynccontextmanager
async def running(app: Any) -> AsyncIterator[str]:
    """`app` on a real uvicorn at a free port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with its schema: to copy it is quicker than to make each test's own."""
    path = tmp_path_factory.mktemp("store") / "winnow.db"
    asyncio.run(check_database(f"sqlite:///{path}"))
    return path


def _copy_of(store: Path, folder: Path) -> str:
    path = folder / "store" / "winnow.db"
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        shutil.copy(store, path)
    return f"sqlite:///{path}"


@pytest.fixture
def start_gateway(tmp_path: Path, empty_store: Path) -> Any:
    """Starts gateways with given settings: `async with start_gateway(profile="demo") as gateway`."""

    @asynccontextmanager
    async def start(
        tracing: Tracing | None = None, router: Any = None, webhook_pace: WebhookPace | None = None, **overrides: Any
    ) -> AsyncIterator[Gateway]:
        policy, scorer, registry = FakePolicy(), FakeScorer(), CollectorRegistry()
        keys = tmp_path / "keys.json"
        key = add_key(keys, "acme", "client")
        async with running(policy.app()) as policy_url, httpx.AsyncClient(timeout=30) as http:
            kept = {"store": {"url": _copy_of(empty_store, tmp_path)}} | overrides
            settings = load_settings(policy_url=policy_url, keys_file=keys, **kept)
            app = create_app(
                settings,
                scorer=scorer,
                router=router or KeywordRouter(),
                registry=registry,
                tracing=tracing,
                webhook_pace=webhook_pace,
            )
            async with (
                running(app) as url,
                openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client,
            ):
                yield Gateway(url, key, keys, policy, scorer, registry, settings, http, client)

    return start


@pytest.fixture
async def gateway(start_gateway: Any) -> AsyncIterator[Gateway]:
    """The standard profile."""
    async with start_gateway() as started:
        yield started


@pytest.fixture
async def demo(start_gateway: Any) -> AsyncIterator[Gateway]:
    """The demo profile: winners are sent whatever was decided."""
    async with start_gateway(profile="demo") as started:
        yield started


@pytest.fixture
def script() -> type[Script]:
    """How the fake policy is told what to say."""
    return Script
