"""Samples the candidates of one request, in waves if the route says so, and has each scored as it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import aclosing

from reward_model.stopping import expected_rise, hopeless
from service.errors import ApiError, PolicyUnavailable
from service.request.candidate import Candidate
from service.request.outcome.outcome import accepted
from service.request.pool import Pool
from service.request.sampling.calls import completion_call
from service.request.sampling.marks import Marks
from service.request.sampling.scoring import Scoring
from service.request.sampling.tasks import cancelled
from service.request.work import Work
from service.telemetry.failure import frames
from service.telemetry.metrics import Metrics
from service.upstream.policy import Policy
from service.upstream.scorer import Scorer

log = logging.getLogger("winnow.gateway")


class Sampling:
    """One request's candidates from the first token to the last score. `run` it once."""

    def __init__(self, work: Work, policy: Policy, scorer: Scorer, metrics: Metrics) -> None:
        self._work, self._plan = work, work.plan
        self._policy, self._scorer, self._metrics = policy, scorer, metrics
        self.candidates = [Candidate(index) for index in range(work.plan.n)]
        work.candidates += self.candidates
        self._accepted_early = False
        self._timed_out = False

    async def run(self) -> Pool:
        """Wave after wave until another does not pay, an answer is accepted early, or the deadline is there.

        Raises PolicyUnavailable or InvalidRequest if no candidate could be sampled.
        """
        self._scoring = Scoring(self._work, self._scorer, self._metrics)
        began, begun = time.perf_counter(), 0
        try:
            for size in self._plan.stopping.waves_of(self._plan.n):
                await self._sample_wave(self.candidates[begun:size])
                begun = size
                if self._timed_out or self._accepted_early or not await self._another_pays():
                    break
            for candidate in self.candidates[begun:]:
                candidate.stopped = True
        finally:
            await self._scoring.close()
            self._observe(began)
        return self._pool()

    async def greedy(self) -> Candidate | None:
        """One unscored greedy completion beside the candidates; None if it fails or there is no time for it."""
        candidate = Candidate(len(self.candidates))
        self._work.candidates.append(candidate)
        try:
            async with asyncio.timeout(self._left()):
                await self._sample(candidate, greedy=True)
        except (TimeoutError, ApiError):
            return None
        return candidate

    def _pool(self) -> Pool:
        scoring, late = self._scoring, self._timed_out or self._scoring.late
        return Pool(tuple(self.candidates), scoring.orm, scoring.calibrator, self._accepted_early, late, scoring.error)

    async def _sample_wave(self, wave: Sequence[Candidate]) -> None:
        """Streams at once, until all are scored, one is accepted if that ends it, or the deadline is there."""
        marks = Marks(wave)
        runs = [asyncio.create_task(self._run(candidate, marks)) for candidate in wave]
        stopper = asyncio.create_task(self._stop_hopeless(wave, marks, runs))
        stopper.add_done_callback(_log_failure)
        early = self._plan.stopping.accept_from is not None
        waiting, errors = set(runs), list[BaseException]()
        try:
            while waiting and not self._timed_out:
                until = asyncio.FIRST_COMPLETED if early else asyncio.FIRST_EXCEPTION
                done, waiting = await asyncio.wait(waiting, timeout=self._left(), return_when=until)
                errors += [e for run in done if not run.cancelled() and (e := run.exception()) is not None]
                # A stream that breaks off does not end the others; anything else does.
                if fatal := next((e for e in errors if not isinstance(e, PolicyUnavailable)), None):
                    raise fatal
                if early and any(accepted(self._plan, self._pool(), candidate) for candidate in wave):
                    self._accepted_early = True
                    break
                self._timed_out = bool(waiting) and self._work.deadline.passed
        finally:
            await cancelled([stopper, *runs])
        if errors and not waiting and not any(candidate.finished for candidate in self.candidates):
            raise errors[0]
        if self._accepted_early:
            for candidate in self.candidates:
                candidate.stopped = candidate.score is None
        await self._rescore_stale()

    async def _run(self, candidate: Candidate, marks: Marks) -> None:
        """One candidate: sampled, then scored."""
        try:
            await self._sample(candidate, marks)
        finally:
            marks.advanced()
        await self._scoring.score(candidate)

    async def _sample(self, candidate: Candidate, marks: Marks | None = None, *, greedy: bool = False) -> None:
        """Feed a candidate with its stream until it ends."""
        body = self._plan.body(candidate.index, greedy=greedy)
        try:
            with completion_call(self._plan, candidate):
                async with aclosing(self._policy.sample(body)) as chunks:
                    async for chunk in chunks:
                        candidate.feed(chunk, time.perf_counter())
                        if marks is not None:
                            marks.advanced()
        except PolicyUnavailable:
            candidate.broken = True
            raise

    async def _stop_hopeless(self, wave: Sequence[Candidate], marks: Marks, runs: Sequence[asyncio.Task[None]]) -> None:
        """At each mark score what there is of a wave, and stop what is not worth going on with."""
        rule, model = self._plan.stopping.gain, await self._scoring.model()
        if rule is None or model is None or model.stopping.partial_scores is None:
            return
        run_of = {candidate.index: run for candidate, run in zip(wave, runs, strict=True)}
        for tokens in rule.marks:
            running = [c for c in await marks.reached(tokens) if c.content and not c.tool_calls]
            if not running:
                continue
            if (partial := await self._scoring.score_partial(running)) is None:
                return
            ended = {c.index: c.score for c in self.candidates if c.score is not None}
            for index in hopeless(model.stopping.partial_scores, rule.cost, tokens, partial, ended):
                if self.candidates[index].running:
                    self.candidates[index].stopped = True
                    run_of[index].cancel()

    async def _another_pays(self) -> bool:
        """Whether one more candidate is expected to be worth its cost; without knowledge of that, it is."""
        rule, model = self._plan.stopping.waves, await self._scoring.model()
        scores = [candidate.score for candidate in self.candidates if candidate.score is not None]
        if rule is None or model is None or not scores:
            return True
        known, curve = model.stopping.candidate_scores, model.stopping.curve
        return known is None or curve is None or expected_rise(known, curve.on, scores) >= rule.cost

    async def _rescore_stale(self) -> None:
        try:
            async with asyncio.timeout(self._left()):
                await self._scoring.rescore_stale(self.candidates)
        except TimeoutError:
            self._timed_out = True

    def _observe(self, began: float) -> None:
        """Times of the stages; the tail is what scoring adds after the last candidate has ended."""
        now, timings = time.perf_counter(), self._work.timings_ms
        first = min((c.first_token_at for c in self.candidates if c.first_token_at), default=None)
        last = max((c.finished_at for c in self.candidates if c.finished_at), default=now)
        if first is not None:
            self._metrics.observe("first_token", first - began, timings)
        self._metrics.observe("sampling", last - began, timings)
        self._metrics.observe("scoring_tail", max(0.0, now - last), timings)

    def _left(self) -> float:
        return self._work.deadline.remaining()


def _log_failure(task: asyncio.Task[None]) -> None:
    """A defect in what only saves tokens must not fail the request, and must be heard."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("stopping candidates failed: %s", frames(error))
