"""Client of the scorer, the reward model behind HTTP. Only the scorer calibrates."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import aiohttp
import orjson
from pydantic import BaseModel, Field, ValidationError

from reward_model.calibration import Curve
from reward_model.stopping import CandidateScores, PartialScores
from service.errors import ModelMoved, ScorerLate, ScorerUnavailable
from service.upstream.connections import send
from service.upstream.guard import Guard
from service.upstream.refusals import seconds_of

_CONNECT_SECONDS = 2.0
_MODELS_SECONDS = 5.0
_PREFILL_MS = 10_000
_PROBE = [{"role": "user", "content": "ping"}]

Shape = TypeVar("Shape", bound=BaseModel)

log = logging.getLogger("winnow.scorer")


@dataclass(frozen=True)
class Scored:
    """One completion's result; `probability` is None without a calibrator, `disagreement` without an ensemble."""

    index: int
    score: float
    probability: float | None
    disagreement: float | None = None


class ScoreReply(NamedTuple):
    """What a scorer call gives: the version that scored, its calibrator as shown to clients, and the results."""

    orm: str
    calibrator: dict[str, Any] | None
    results: list[Scored]


class Stopping(BaseModel):
    """What is known of a reward model that a stopping rule needs; what is not known stops nobody."""

    partial_scores: PartialScores | None = None
    candidate_scores: CandidateScores | None = None
    curve: Curve | None = None


class ServedModel(NamedTuple):
    """A reward model that is served: its version, and what its stopping rules go by."""

    id: str
    stopping: Stopping = Stopping()


class Scorer(Protocol):
    """The seam to what scores."""

    async def resolve(self, orm: str, *, fresh: bool = False) -> ServedModel:
        """The version an alias stands for now, to be pinned for the whole request; `fresh` after a ModelMoved."""

    async def prefill(
        self,
        prompt: list[dict[str, Any]],
        orm: str,
        timeout_ms: int = _PREFILL_MS,
        *,
        tools: list[dict[str, Any]] | None = None,
        cache_salt: str | None = None,
    ) -> None:
        """Let the scorer prepare for this prompt while the policy samples. Only speed is lost if it fails: no score
        should wait for it."""

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
        """Score completions of one prompt, each with its `index`; `partial` ones still grow and get no probability.
        `tools` are read by models whose own template writes them. Requests of different `cache_salt` share nothing in
        the scorer's cache.

        Raises ModelMoved if `orm` is no longer served, ScorerLate if the time is over, ScorerUnavailable otherwise.
        """

    async def healthy(self) -> bool:
        """Whether its engine answers within the time for a probe."""


class HttpScorer:
    """A Winnow scorer over HTTP."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        session: aiohttp.ClientSession,
        guard: Guard | None = None,
        *,
        salted: bool = True,
    ) -> None:
        """`salted`: tell the scorer the salts that it is given."""
        self._url = url
        self._salted = salted
        self._session = session
        self._guard = guard or Guard("scorer", ScorerUnavailable)
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._models: dict[str, ServedModel] = {}
        self._models_at = float("-inf")
        self._listing: asyncio.Task[None] | None = None

    async def resolve(self, orm: str, *, fresh: bool = False) -> ServedModel:
        """From the scorer's list of models, asked for at most every few seconds, once for all who wait for it."""
        if fresh or orm not in self._models or time.monotonic() - self._models_at > _MODELS_SECONDS:
            if self._listing is None or self._listing.done():
                # In no request's context: the list is everybody's.
                self._listing = asyncio.create_task(self._list_models(), context=Context())
            # Whoever leaves must not take the list from the others.
            await asyncio.shield(self._listing)
        if orm not in self._models:
            raise ScorerUnavailable(
                f"the scorer serves no model {orm!r}; the gateway's operator has to correct the route's orm",
                kind="misconfigured",
            )
        return self._models[orm]

    async def prefill(
        self,
        prompt: list[dict[str, Any]],
        orm: str,
        timeout_ms: int = _PREFILL_MS,
        *,
        tools: list[dict[str, Any]] | None = None,
        cache_salt: str | None = None,
    ) -> None:
        """POST /v1/prefill. Its failures say nothing of the scoring: they neither open the circuit nor close it."""
        if self._guard.circuit.open:
            raise ScorerUnavailable("the scorer has failed and is left alone for a while", kind="circuit_open")
        body = {"prompt": prompt, "orm": orm, "tools": tools} | self._salt(cache_salt)
        try:
            await self._call("POST", "/v1/prefill", body, min(max(1, timeout_ms), _PREFILL_MS) / 1000)
        except ScorerUnavailable as error:
            self._guard.count(error.kind)
            raise

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
        """POST /v1/score."""
        body = {
            "prompt": prompt,
            "completions": completions,
            "orm": orm,
            "route": route,
            "deadline_ms": max(1, deadline_ms),
            "locale": locale,
            "stopping_rule": stopping_rule,
            "partial": partial,
            "tools": tools,
        } | self._salt(cache_salt)
        async with self._guard.call():
            return await self._score(body, completions)

    def _salt(self, cache_salt: str | None) -> dict[str, str]:
        return {"cache_salt": cache_salt} if self._salted and cache_salt is not None else {}

    async def _score(self, body: dict[str, Any], completions: list[dict[str, Any]]) -> ScoreReply:
        content = await self._call("POST", "/v1/score", body, body["deadline_ms"] / 1000)
        reply = _checked(_Reply, content)
        if [result.index for result in reply.results] != [completion.get("index") for completion in completions]:
            raise ScorerUnavailable(
                "the scorer's results are not those of the completions it was sent", kind="malformed"
            )
        results = [Scored(**result.model_dump()) for result in reply.results]
        return ScoreReply(reply.orm, reply.calibrator, results)

    async def healthy(self) -> bool:
        """Whether it scores one token."""
        milliseconds = int(1000 * self._guard.settings.probe_seconds)
        completions = [{"index": 0, "content": "pong"}]
        body = {"prompt": _PROBE, "completions": completions, "deadline_ms": milliseconds, "partial": True}
        try:
            async with self._guard.call(stall_seconds=milliseconds / 2000):
                await self._score(body, completions)
        except ScorerUnavailable as error:
            return error.kind in ("overloaded", "refused")
        return True

    async def _list_models(self) -> None:
        async with self._guard.call(proves=False):
            listed = _checked(_Listed, await self._call("GET", "/v1/models", None, _MODELS_SECONDS))
        self._models = {
            name: ServedModel(model.id, model.stopping or Stopping())
            for model in listed.data
            for name in (model.id, *model.aliases)
        }
        self._models_at = time.monotonic()

    async def _call(self, method: str, path: str, body: dict[str, Any] | None, seconds: float) -> bytes:
        # The time that a score is given is what its request has left.
        with _reaching(ScorerLate if path == "/v1/score" else ScorerUnavailable):
            response = await send(
                self._session,
                method,
                self._url + path,
                headers=self._headers,
                data=None if body is None else orjson.dumps(body),
                timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS),
            )
            async with response:
                content = await response.read()
        if response.status != 200:
            raise _refusal(response.status, path, response.headers.get("retry-after"))
        return content


class _Result(BaseModel):
    # orjson reads neither NaN nor numbers that overflow.
    index: int
    score: float
    probability: float | None = Field(None, ge=0, le=1)
    disagreement: float | None = Field(None, ge=0)


class _Reply(BaseModel):
    orm: str
    calibrator: dict[str, Any] | None = None
    results: list[_Result]


class _Model(BaseModel):
    id: str
    aliases: list[str] = []
    stopping: Stopping | None = None


class _Listed(BaseModel):
    data: list[_Model]


def _checked(shape: type[Shape], content: bytes) -> Shape:
    try:
        return shape.model_validate(orjson.loads(content))
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise ScorerUnavailable("the scorer sent something else than it should", kind="malformed") from error


def _refusal(status: int, path: str, retry_after: str | None) -> ScorerUnavailable:
    log.warning("the scorer answered %s with status %d", path, status)
    if status == 504:
        return ScorerLate("the scorer had no time left for this", kind="timeout")
    if status in (404, 409) and path != "/v1/models":
        return ModelMoved("the scorer no longer serves the version that this request began with", kind="moved")
    if status in (401, 403):
        return ScorerUnavailable(
            "the scorer refuses this gateway's key; the gateway's operator has to correct it", kind="misconfigured"
        )
    pause = seconds_of(retry_after)
    if status in (400, 413, 422):
        return ScorerUnavailable("the scorer takes no prompt or completion of this kind", kind="refused")
    if status in (429, 503):
        return ScorerUnavailable("the scorer has as much as it can carry", kind="overloaded", retry_after=pause or 1)
    return ScorerUnavailable(f"the scorer answered with status {status}", retry_after=pause)


@contextmanager
def _reaching(overdue: type[ScorerUnavailable]) -> Iterator[None]:
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise ScorerUnavailable("the scorer cannot be reached", kind="unreachable") from error
    except TimeoutError as error:
        raise overdue("the scorer did not answer in the time that it was given", kind="timeout") from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise ScorerUnavailable("the scorer broke off", kind="broke_off") from error
