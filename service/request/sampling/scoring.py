"""Scores the candidates of one request, all by one version of the reward model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from service.errors import ModelMoved, ScorerLate, ScorerUnavailable
from service.request.candidate import Candidate
from service.request.sampling.tasks import cancelled
from service.request.work import Work
from service.telemetry.metrics import Metrics
from service.upstream.scorer import Scorer, ScoreReply, ServedModel


class Scoring:
    """Pins the version that the route's `orm` names, scores each distinct reply once, and re-pins once if that version
    is no longer served: then what the old one scored is scored again."""

    def __init__(self, work: Work, scorer: Scorer, metrics: Metrics) -> None:
        self._work, self._scorer, self._metrics = work, scorer, metrics
        self.calibrator: dict[str, Any] | None = None
        self.error: ScorerUnavailable | None = None
        self.late = False
        self._orm: str | None = None
        self._scored_by: dict[int, str] = {}
        self._replies: dict[tuple[str, str], asyncio.Task[ScoreReply]] = {}
        self._pinning = asyncio.create_task(self._pin())
        self._repinning: asyncio.Task[ServedModel] | None = None
        self._prefill: asyncio.Task[None] | None = None

    @property
    def orm(self) -> str | None:
        """The version that scores now, if it is known."""
        return self._orm

    async def model(self) -> ServedModel | None:
        """The pinned version; None if the scorer could not name one."""
        return await asyncio.shield(self._pinning)

    async def score(self, candidate: Candidate) -> None:
        """Give a finished candidate its score and probability. An empty reply gets none, nor does any if the scorer
        fails: `late` and `error` say why."""
        if candidate.empty or await self.model() is None:
            return
        if candidate.key not in self._replies:
            self._replies[candidate.key] = asyncio.create_task(self._score_text(candidate))
        try:
            self._take(candidate, await asyncio.shield(self._replies[candidate.key]))
        except ScorerLate:
            self.late = True
        except ScorerUnavailable as error:
            self.error = error

    async def score_partial(self, candidates: Sequence[Candidate]) -> dict[int, float] | None:
        """Scores of candidates that still grow, by index; None if the scorer fails, which costs only tokens here."""
        try:
            reply = await self._ask(candidates, partial=True)
        except ScorerUnavailable:
            return None
        return {result.index: result.score for result in reply.results}

    async def rescore_stale(self, candidates: Sequence[Candidate]) -> None:
        """Score again what another version than the present one scored: scores of two versions do not compare."""
        stale = [c for c in candidates if c.score is not None and self._scored_by[c.index] != self._orm]
        if not stale:
            return
        for candidate in stale:
            candidate.score = candidate.probability = candidate.disagreement = None
        try:
            reply = await self._ask(stale)
        except ScorerLate:
            self.late = True
            return
        except ScorerUnavailable as error:
            self.error = error
            return
        by_index = {result.index: result for result in reply.results}
        for candidate in stale:
            self._take(candidate, reply._replace(results=[by_index[candidate.index]]))

    async def close(self) -> None:
        """Cancel what is still under way."""
        tasks = (self._pinning, self._repinning, self._prefill, *self._replies.values())
        await cancelled(task for task in tasks if task is not None)

    async def _pin(self) -> ServedModel | None:
        """Resolve the version, and let it see the prompt while the policy samples; scoring never waits for that."""
        try:
            model = await self._scorer.resolve(self._work.plan.settings.orm)
        except ScorerUnavailable as error:
            self.error = error
            return None
        self._orm = model.id
        self._prefill = asyncio.create_task(self._see_prompt(model.id))
        return model

    async def _see_prompt(self, orm: str) -> None:
        # Only speed is lost if it fails; whether the scorer works is for the scoring to tell.
        with suppress(ScorerUnavailable):
            plan = self._work.plan
            await self._scorer.prefill(
                plan.messages, orm, self._work.deadline.remaining_ms(), tools=plan.tools, cache_salt=plan.cache_salt
            )

    def _take(self, candidate: Candidate, reply: ScoreReply) -> None:
        (result,) = reply.results
        self.calibrator = reply.calibrator
        self._scored_by[candidate.index] = reply.orm
        candidate.score, candidate.probability = result.score, result.probability
        candidate.disagreement = result.disagreement

    async def _score_text(self, candidate: Candidate) -> ScoreReply:
        with self._metrics.stage("scoring"):
            return await self._ask([candidate])

    async def _ask(self, candidates: Sequence[Candidate], *, partial: bool = False) -> ScoreReply:
        assert self._orm is not None
        orm = self._orm
        try:
            return await self._call(candidates, orm, partial=partial)
        except ModelMoved:
            return await self._call(candidates, await self._repin(), partial=partial)

    async def _repin(self) -> str:
        """The version that the alias stands for by now; asked for once in a request."""
        if self._repinning is None:
            self._repinning = asyncio.create_task(self._scorer.resolve(self._work.plan.settings.orm, fresh=True))
        self._orm = (await asyncio.shield(self._repinning)).id
        return self._orm

    async def _call(self, candidates: Sequence[Candidate], orm: str, *, partial: bool) -> ScoreReply:
        plan = self._work.plan
        return await self._scorer.score(
            plan.messages,
            [candidate.completion() for candidate in candidates],
            orm,
            plan.route,
            self._work.deadline.remaining_ms(),
            plan.locale,
            stopping_rule=plan.stopping_rule,
            partial=partial,
            tools=plan.tools,
            cache_salt=plan.cache_salt,
        )
