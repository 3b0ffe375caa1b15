"""The scorer: the reward model behind HTTP. It alone calibrates."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import aiohttp
import orjson
from pydantic import BaseModel

from reward_model.calibration import Curve
from reward_model.stopping import CandidateScores, PartialScores
from service.errors import ScorerLate, ScorerUnavailable

_CONNECT_SECONDS = 2.0
_HEALTH_SECONDS = 2.0
_MODELS_SECONDS = 5.0


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

    async def resolve(self, orm: str) -> ServedModel:
        """The version an alias stands for now, to be pinned for the whole request."""

    async def prefill(self, prompt: list[dict[str, Any]], orm: str) -> None:
        """Let the scorer prepare for this prompt while the policy samples."""

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
    ) -> ScoreReply:
        """Score completions of one prompt; `partial` ones still grow and get no probability."""

    async def healthy(self) -> bool:
        """Whether it answers."""


class HttpScorer:
    """A Winnow scorer over HTTP."""

    def __init__(self, url: str, api_key: str | None, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._models: dict[str, ServedModel] = {}
        self._models_at = float("-inf")

    async def resolve(self, orm: str) -> ServedModel:
        """From the scorer's list of models, asked for at most every few seconds."""
        if time.monotonic() - self._models_at > _MODELS_SECONDS or orm not in self._models:
            listed = await self._call("GET", "/v1/models", None, _MODELS_SECONDS)
            self._models = {}
            for model in listed["data"]:
                served = ServedModel(model["id"], Stopping.model_validate(model.get("stopping") or {}))
                self._models |= dict.fromkeys((served.id, *model.get("aliases", [])), served)
            self._models_at = time.monotonic()
        if orm not in self._models:
            raise ScorerUnavailable(f"the scorer serves no model {orm!r}; it has {', '.join(sorted(self._models))}")
        return self._models[orm]

    async def prefill(self, prompt: list[dict[str, Any]], orm: str) -> None:
        """POST /v1/prefill."""
        await self._call("POST", "/v1/prefill", {"prompt": prompt, "orm": orm}, 30.0)

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
        }
        reply = await self._call("POST", "/v1/score", body, max(1, deadline_ms) / 1000)
        results = [
            Scored(r["index"], r["score"], r.get("probability"), r.get("disagreement")) for r in reply["results"]
        ]
        return ScoreReply(reply["orm"], reply.get("calibrator"), results)

    async def healthy(self) -> bool:
        """Whether it is ready."""
        try:
            await self._call("GET", "/readyz", None, _HEALTH_SECONDS)
        except ScorerUnavailable:
            return False
        return True

    async def _call(self, method: str, path: str, body: dict[str, Any] | None, seconds: float) -> Any:
        try:
            async with self._session.request(
                method,
                self._url + path,
                data=None if body is None else orjson.dumps(body),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS),
            ) as response:
                content = await response.read()
                if response.status != 200:
                    refused = ScorerLate if response.status == 504 else ScorerUnavailable
                    raise refused(f"the scorer answered {response.status}: {_message(content)}")
                return orjson.loads(content)
        except (aiohttp.ClientError, ConnectionError, TimeoutError, orjson.JSONDecodeError) as error:
            raise ScorerUnavailable(f"the scorer could not be reached ({type(error).__name__})") from error


def _message(content: bytes) -> str:
    try:
        return str(orjson.loads(content)["error"]["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "no reason given"
