"""The scorer's app: its contract, adapters for others' clients, and errors in one shape."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from hmac import compare_digest
from typing import Any, TypeVar

import orjson
from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from reward_model.calibration import Calibration
from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.errors import (
    BadInput,
    DeadlineExceeded,
    EngineFailed,
    RewardModelError,
    ScorerOverloaded,
    Unauthorized,
    UnknownModel,
)
from reward_model.faults import first_fault
from reward_model.serving import adapters
from reward_model.serving.engine import Engine
from reward_model.serving.metrics import ScorerMetrics
from reward_model.serving.schemas import ClassifyRequest, PrefillRequest, RewardRequest, ScoreRequest
from reward_model.serving.settings import ScorerSettings

T = TypeVar("T")
S = TypeVar("S", bound=BaseModel)

# Error class -> (HTTP status, type). The first that fits counts.
_STATUS: list[tuple[type[RewardModelError], int, str]] = [
    (Unauthorized, 401, "invalid_request_error"),
    (BadInput, 400, "invalid_request_error"),
    (UnknownModel, 409, "model_gone"),
    (ScorerOverloaded, 503, "overloaded"),
    (DeadlineExceeded, 504, "deadline_exceeded"),
    (EngineFailed, 500, "server_error"),
    (RewardModelError, 500, "server_error"),
]
# HTTP status -> type, for what is refused before a request is read.
_TYPES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large", 499: "client_left"}


class ScorerState:
    """What the handlers need: the engine, its names, the settings, the metrics."""

    def __init__(self, model: LoadedModel, settings: ScorerSettings, registry: CollectorRegistry) -> None:
        self.settings = settings
        self.metrics = ScorerMetrics(registry)
        self.engine = Engine(model, settings, self.metrics)
        # The one model that is served is the champion; challengers come with promotion.
        self.names = {model.id, model.id.split("@")[0], "champion", settings.model}
        calibrator = model.calibration.id if model.calibration else "none"
        self.metrics.models.labels(model.id, calibrator).set(1)

    def pick(self, orm: str | None) -> Engine:
        """The engine of that name; UnknownModel when it is not, or no longer, served."""
        if orm is not None and orm not in self.names:
            raise UnknownModel(f"{orm} is not served here; this scorer serves {self.engine.model.id}")
        return self.engine

    def calibrator(self, route: str | None = None, stopping_rule: str | None = None) -> dict[str, Any] | None:
        """What every probability says of itself; a route and a stopping rule may have a curve of their own."""
        calibration = self.engine.model.calibration
        return calibration.under(stopping_rule).public(route) if calibration else None


def create_app(model: LoadedModel, settings: ScorerSettings, registry: CollectorRegistry | None = None) -> FastAPI:
    """The app around a loaded model."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        scorer = ScorerState(model, settings, registry or CollectorRegistry())
        app.state.scorer = scorer
        scorer.engine.batcher.start()
        yield
        await scorer.engine.batcher.stop()

    app = FastAPI(title="Winnow scorer", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_exception_handler(RewardModelError, _known_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unknown_error)
    app.add_api_route("/v1/score", score, methods=["POST"])
    app.add_api_route("/v1/prefill", prefill, methods=["POST"])
    app.add_api_route("/classify", classify, methods=["POST"])
    app.add_api_route("/get_reward", get_reward, methods=["POST"])
    app.add_api_route("/v1/models", list_models)
    for path, handler in (("/livez", livez), ("/health", readyz), ("/readyz", readyz), ("/metrics", metrics)):
        app.add_api_route(path, handler)
        app.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False)
    return app


async def score(request: Request) -> Response:
    """POST /v1/score."""
    scorer, asked = await _read(request, ScoreRequest)
    if len(asked.completions) > scorer.settings.max_completions:
        raise BadInput(
            f"{len(asked.completions)} completions are more than {scorer.settings.max_completions}", "completions"
        )
    engine, candidates = scorer.pick(asked.orm), asked.candidates()
    deadline = math.inf if asked.deadline_ms is None else time.monotonic() + asked.deadline_ms / 1000
    result = await _while_connected(
        request,
        engine.score(
            asked.prompt,
            [*candidates],
            deadline,
            asked.locale,
            asked.route,
            partial=asked.partial,
            stopping_rule=asked.stopping_rule,
            tools=asked.tools,
            salt=asked.cache_salt,
        ),
    )
    results = [
        {"index": candidate.index, "score": value, "probability": probability, "disagreement": disagreement}
        for candidate, value, probability, disagreement in zip(
            candidates, result.scores, result.probabilities, result.disagreements, strict=True
        )
    ]
    usage = {
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.completion_tokens,
        "truncated_tokens": result.truncated_tokens,
    }
    calibrator = scorer.calibrator(asked.route, asked.stopping_rule)
    return _answer(scorer, {"orm": engine.model.id, "calibrator": calibrator, "results": results, "usage": usage})


async def prefill(request: Request) -> Response:
    """POST /v1/prefill: prepare for a prompt whose completions are still being sampled."""
    scorer, asked = await _read(request, PrefillRequest)
    engine = scorer.pick(asked.orm)
    tokens = await engine.prefill(asked.prompt, asked.tools, asked.cache_salt)
    return _answer(scorer, {"orm": engine.model.id, "prompt_tokens": tokens})


async def classify(request: Request) -> Response:
    """POST /classify, vLLM's."""
    scorer, asked = await _read(request, ClassifyRequest)
    return _answer(scorer, await _while_connected(request, adapters.classify(scorer.pick(asked.model), asked)))


async def get_reward(request: Request) -> Response:
    """POST /get_reward, OpenRLHF's."""
    scorer, asked = await _read(request, RewardRequest)
    return _answer(scorer, await _while_connected(request, adapters.get_reward(scorer.engine, asked)))


async def list_models(request: Request) -> Response:
    """GET /v1/models: what is served, under which names, with which calibrator."""
    scorer: ScorerState = request.app.state.scorer
    model = scorer.engine.model
    entry = {
        "id": model.id,
        "object": "model",
        "owned_by": "winnow",
        "aliases": sorted(scorer.names - {model.id}),
        "state": "ready" if scorer.engine.healthy else "failed",
        "calibrator": scorer.calibrator(),
        "stopping": _stopping_facts(model.calibration),
    }
    return _json({"object": "list", "data": [entry]})


def _stopping_facts(calibration: Calibration | None) -> dict[str, Any] | None:
    """What a stopping rule needs to know of the model."""
    if calibration is None:
        return None
    facts = calibration.model_dump(mode="json", include={"partial_scores", "candidate_scores"})
    return facts | {"curve": calibration.curve.model_dump(mode="json")}


async def livez(request: Request) -> Response:
    """503 if only a restart helps: the worker has died, or test passes have failed for `restart_seconds`."""
    if request.app.state.scorer.engine.beyond_repair:
        return _json({"status": "forward passes fail for good; restart the scorer"}, 503)
    return _json({"status": "alive"})


async def readyz(request: Request) -> Response:
    """200 while the scoring worker lives and the last forward pass, or a test pass after it, succeeded."""
    engine: Engine = request.app.state.scorer.engine
    if await engine.ready():
        return _json({"status": "ready"})
    status = "forward passes fail" if engine.batcher.alive else "the scoring worker has died"
    return _json({"status": status}, 503)


async def metrics(request: Request) -> Response:
    """Prometheus or OpenMetrics text."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(request.app.state.scorer.metrics.registry), media_type=content_type)


async def _read(request: Request, schema: type[S]) -> tuple[ScorerState, S]:
    """The checked body; BadInput names what is wrong with it."""
    scorer: ScorerState = request.app.state.scorer
    _authorise(request, scorer.settings.api_key)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > scorer.settings.max_body_bytes:
            raise HTTPException(413, f"the body is larger than {scorer.settings.max_body_bytes} bytes")
    try:
        return scorer, schema.model_validate(orjson.loads(bytes(body)))
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the body is not JSON in UTF-8: {error}") from error
    except ValidationError as error:
        fault = first_fault(error)
        raise BadInput(f"{fault.field or 'the body'}: {fault.message}", fault.field or None) from error


def _authorise(request: Request, key: str | None) -> None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if key is not None and not compare_digest(given.encode(), key.encode()):
        raise Unauthorized("send the scorer's key as `Authorization: Bearer KEY`")


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run `work`; when the client leaves, cancel it, so that its queued completions are dropped."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HTTPException(499, "the client left")
        return task.result()
    finally:
        for unfinished in (task, left):
            unfinished.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _known_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RewardModelError)
    status, kind = next((status, kind) for known, status, kind in _STATUS if isinstance(error, known))
    request.app.state.scorer.metrics.requests.labels(kind).inc()
    headers = {"retry-after": str(max(1, round(error.retry_after)))} if isinstance(error, ScorerOverloaded) else {}
    return _error(status, kind, str(error), getattr(error, "param", None), headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _TYPES.get(error.status_code, "invalid_request_error")
    request.app.state.scorer.metrics.requests.labels(kind).inc()
    return _error(error.status_code, kind, str(error.detail), None, {})


async def _unknown_error(request: Request, error: Exception) -> Response:
    """A defect of ours: the traceback goes to the log, where uvicorn writes it, and not to the client."""
    request.app.state.scorer.metrics.requests.labels("server_error").inc()
    return _error(500, "server_error", "the scorer failed; its log has the details", None, {})


def _answer(scorer: ScorerState, body: dict[str, Any]) -> Response:
    scorer.metrics.requests.labels("ok").inc()
    return _json(body)


def _error(status: int, kind: str, message: str, param: str | None, headers: dict[str, str]) -> Response:
    return _json({"error": {"message": message, "type": kind, "param": param, "code": kind}}, status, headers)


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")
