"""One request, from its route to its record. Read `Pipeline.answer` first: each line is a stage.

route -> sample(n) -> score as they finish -> select -> decide -> respond -> record
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Protocol

import orjson

from reward_model.stopping import expected_rise, hopeless
from routing.router import RouteDecision
from service.admission.admission import Admission
from service.errors import ApiError, DeadlineMissed, PolicyUnavailable, ScorerLate, ScorerUnavailable, StoreUnavailable
from service.failure import frames
from service.identity import Identity
from service.metrics import Metrics
from service.request.candidate import Candidate
from service.request.deadline import Deadline
from service.request.marks import Marks
from service.request.outcome import Outcome, accepted, conclude, flag_of
from service.request.passthrough import Relabelled
from service.request.plan import Plan, make_plan
from service.request.pool import Pool
from service.request.recent import RecentResponses
from service.request.records import record_of
from service.request.respond import Answer, completion_chunks, respond
from service.request.schemas import ChatRequest
from service.request.work import Work
from service.reviews.escalation import escalation_of
from service.settings import Settings
from service.store.history import History
from service.upstream.policy import Policy
from service.upstream.scorer import Scorer, ScoreReply

log = logging.getLogger("winnow.gateway")


class RequestRouter(Protocol):
    """The seam to what routes."""

    def route(self, messages: Any) -> RouteDecision:
        """Which route a conversation takes."""


class Pipeline:
    """Everything a request needs, built once by the app."""

    def __init__(
        self,
        settings: Settings,
        policies: Mapping[str, Policy],
        scorer: Scorer,
        router: RequestRouter,
        metrics: Metrics,
        admission: Admission,
        recent: RecentResponses,
        history: History | None = None,
    ) -> None:
        self.settings = settings
        self.policies = policies
        self.scorer = scorer
        self.router = router
        self.metrics = metrics
        self.admission = admission
        self.recent = recent
        self.history = history
        self._version = version("winnow-rerank")

    async def prepare(self, request: ChatRequest, identity: Identity, response_id: str) -> Work:
        """Route and plan: what must be known before the first byte of a response."""
        began, timings = time.perf_counter(), dict[str, float]()
        messages = request.policy_messages()
        with self.metrics.stage("route", timings):
            # The encoder takes milliseconds: off the event loop, where other streams are waiting.
            decision = await asyncio.to_thread(self.router.route, messages)
        plan = make_plan(request, identity, decision.route, decision.probability, self.settings.routes[decision.route])
        deadline = Deadline(plan.budget_ms - (time.perf_counter() - began) * 1000)
        permit = await self.admission.reserve(
            identity,
            plan.route,
            n=plan.n,
            min_n=None if plan.settings.shrink_to is None else max(plan.settings.shrink_to, request.n),
            max_tokens=plan.max_tokens,
        )
        plan = replace(plan, n=permit.n)
        return Work(response_id, request, identity, plan, deadline, began, int(time.time()), permit, timings)

    async def answer(self, work: Work) -> Answer:
        """The whole answer at once."""
        with self._at_work(work):
            if work.plan.strategy == "greedy":
                return self._pass_through(work, await self._complete(work))
            pool = await self._sample_and_score(work)
            outcome = conclude(work.plan, pool)
            if outcome.send == "greedy":
                await self._add_greedy(work, pool, outcome)
            await self._keep(work, pool, outcome)
            return self._finish(work, pool, outcome)

    async def stream(self, work: Work) -> AsyncGenerator[list[bytes], None]:
        """OpenAI's chunks: of a greedy answer as it decodes, of a best-of-N one when its winner is known."""
        if work.plan.strategy == "best_of_n":
            yield [orjson.dumps(chunk) for chunk in completion_chunks(work, await self.answer(work))]
            return
        with self._at_work(work):
            candidate = Candidate(0)
            async with aclosing(self._relay(work, candidate)) as blocks:
                async for block in blocks:
                    yield block
            answer = self._pass_through(work, candidate)
        yield [orjson.dumps(chunk) for chunk in completion_chunks(work, answer, only_end=True)]

    async def _sample_and_score(self, work: Work) -> Pool:
        """n streams, in waves where the route says so, each scored when it ends, until no more is wanted or the
        deadline is there."""
        pool = Pool([Candidate(index) for index in range(work.plan.n)])
        pinned = asyncio.create_task(self._pin(work, pool))
        scores: dict[tuple[str, str], asyncio.Task[ScoreReply]] = {}
        began, begun = time.perf_counter(), 0
        try:
            for size in work.plan.stopping.waves_of(work.plan.n):
                await self._wave(work, pool, pool.candidates[begun:size], pinned, scores)
                begun = size
                if pool.timed_out or pool.accepted_early or not _another_pays(work.plan, pool):
                    break
            for candidate in pool.candidates[begun:]:
                candidate.stopped = True
        finally:
            await _cancel([*scores.values(), pinned])
            self._observe_sampling(work, pool, began)
        return pool

    async def _wave(
        self,
        work: Work,
        pool: Pool,
        candidates: list[Candidate],
        pinned: asyncio.Task[str | None],
        scores: dict[tuple[str, str], asyncio.Task[ScoreReply]],
    ) -> None:
        """Streams at once, until all are scored, one is accepted where that ends it, or the deadline is there."""
        marks = Marks(candidates)
        tasks = [asyncio.create_task(self._run_candidate(work, pool, c, marks, pinned, scores)) for c in candidates]
        stopper = asyncio.create_task(self._stop_hopeless(work, pool, candidates[0].index, marks, pinned, tasks))
        stopper.add_done_callback(_log_failure)
        waiting, failed = set(tasks), list[BaseException]()
        early = work.plan.stopping.accept_from is not None
        until = asyncio.FIRST_COMPLETED if early else asyncio.FIRST_EXCEPTION
        try:
            while waiting and not pool.timed_out:
                # A stream that breaks off does not end the others.
                done, waiting = await asyncio.wait(waiting, timeout=work.deadline.remaining(), return_when=until)
                failed += [e for task in done if not task.cancelled() and (e := task.exception()) is not None]
                if fatal := next((e for e in failed if not isinstance(e, PolicyUnavailable)), None):
                    raise fatal
                if early and any(accepted(work.plan, pool, candidate) for candidate in candidates):
                    pool.accepted_early = True
                    break
                pool.timed_out |= bool(waiting) and work.deadline.passed
            if failed and not waiting and not pool.completed:
                raise failed[0]
        finally:
            await _cancel([stopper, *tasks])
        if pool.accepted_early:
            for candidate in pool.candidates:
                candidate.stopped = candidate.score is None

    async def _run_candidate(
        self,
        work: Work,
        pool: Pool,
        candidate: Candidate,
        marks: Marks,
        pinned: asyncio.Task[str | None],
        scores: dict[tuple[str, str], asyncio.Task[ScoreReply]],
    ) -> None:
        await self._sample(work, candidate, work.plan.body(candidate.index), marks)
        orm = await asyncio.shield(pinned)
        if orm is None:
            return
        if candidate.key not in scores:
            # Identical texts share one call.
            scores[candidate.key] = asyncio.create_task(self._score(work, candidate, orm))
        try:
            reply = await asyncio.shield(scores[candidate.key])
        except ScorerLate:
            pool.timed_out = True
            return
        except ScorerUnavailable as error:
            pool.scorer_error = error
            return
        pool.calibrator = reply.calibrator
        result = reply.results[0]
        candidate.score, candidate.probability = result.score, result.probability
        candidate.disagreement = result.disagreement

    async def _stop_hopeless(
        self,
        work: Work,
        pool: Pool,
        first: int,
        marks: Marks,
        pinned: asyncio.Task[str | None],
        tasks: list[asyncio.Task[None]],
    ) -> None:
        """At each mark score what there is of the wave that begins with candidate `first`, and stop what is not worth
        going on with."""
        rule, orm, known = work.plan.stopping.gain, await asyncio.shield(pinned), pool.stopping.partial_scores
        if rule is None or orm is None or known is None:
            return
        for tokens in rule.marks:
            running = [c for c in await marks.reached(tokens) if c.content and not c.tool_calls]
            if not running:
                continue
            try:
                reply = await self._ask_scorer(work, running, orm, partial=True)
            except ScorerUnavailable:
                # Only tokens are lost; whether the scorer works is for the scoring of whole completions to tell.
                return
            partial = {result.index: result.score for result in reply.results}
            ended = {c.index: c.score for c in pool.candidates if c.score is not None}
            for index in hopeless(known, rule.cost, tokens, partial, ended):
                if pool.candidates[index].running:
                    pool.candidates[index].stopped = True
                    tasks[index - first].cancel()

    async def _pin(self, work: Work, pool: Pool) -> str | None:
        """Resolve the reward model once for the request and let it see the prompt while the policy samples."""
        try:
            pool.orm, pool.stopping = await self.scorer.resolve(work.plan.settings.orm)
        except ScorerUnavailable as error:
            self.metrics.count_upstream_error("scorer", error.code)
            pool.scorer_error = error
            return None
        try:
            await self.scorer.prefill(work.plan.messages, pool.orm)
        except ScorerUnavailable as error:
            # Only speed is lost; whether the scorer works is for the scoring to tell.
            self.metrics.count_upstream_error("scorer", error.code)
        return pool.orm

    async def _sample(self, work: Work, candidate: Candidate, body: dict[str, Any], marks: Marks | None = None) -> None:
        policy = self.policies[work.plan.settings.policy]
        try:
            async with aclosing(policy.sample(body)) as chunks:
                async for chunk in chunks:
                    candidate.feed(chunk, time.perf_counter())
                    if marks is not None:
                        marks.advanced()
        except PolicyUnavailable as error:
            self.metrics.count_upstream_error("policy", error.code)
            candidate.broken = True
            raise
        finally:
            if marks is not None:
                marks.advanced()

    async def _score(self, work: Work, candidate: Candidate, orm: str) -> ScoreReply:
        with self.metrics.stage("scoring"):
            return await self._ask_scorer(work, [candidate], orm)

    async def _ask_scorer(
        self, work: Work, candidates: list[Candidate], orm: str, *, partial: bool = False
    ) -> ScoreReply:
        plan, left = work.plan, work.deadline.remaining_ms()
        completions = [candidate.completion() for candidate in candidates]
        try:
            return await self.scorer.score(
                plan.messages,
                completions,
                orm,
                plan.route,
                left,
                plan.locale,
                stopping_rule=plan.stopping_rule,
                partial=partial,
            )
        except ScorerLate:
            raise
        except ScorerUnavailable as error:
            self.metrics.count_upstream_error("scorer", error.code)
            raise

    async def _complete(self, work: Work) -> Candidate:
        """A greedy completion as a whole."""
        candidate, began = Candidate(0), time.perf_counter()
        with self._passing(work):
            async with asyncio.timeout(work.deadline.remaining()):
                chunk = await self.policies[work.plan.settings.policy].complete(work.plan.body(0))
        now = time.perf_counter()
        candidate.feed(chunk, now)
        work.permit.settle(candidate.completion_tokens)
        self.metrics.observe("sampling", now - began, work.timings_ms)
        return candidate

    async def _relay(self, work: Work, candidate: Candidate) -> AsyncGenerator[list[bytes], None]:
        """A greedy completion's chunks as they come, under our labels, within the deadline."""
        relabelled, began = Relabelled(work), time.perf_counter()
        try:
            with self._passing(work):
                async with aclosing(self.policies[work.plan.settings.policy].relay(work.plan.body(0))) as blocks:
                    while True:
                        async with asyncio.timeout(work.deadline.remaining()):
                            block = await anext(blocks, None)
                        if block is None:
                            break
                        candidate.first_token_at = candidate.first_token_at or time.perf_counter()
                        if shown := [chunk for payload in block if (chunk := relabelled(payload)) is not None]:
                            yield shown
            for last in relabelled.ending():
                candidate.feed(last, time.perf_counter())
        finally:
            # Of a stream that was cut off no usage is known: a chunk is a token at least.
            candidate.completion_tokens = candidate.completion_tokens or relabelled.count
            self._observe_sampling(work, Pool([candidate]), began)

    @contextmanager
    def _passing(self, work: Work) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise DeadlineMissed(f"the completion was not ready within {work.plan.budget_ms} ms") from error
        except PolicyUnavailable as error:
            self.metrics.count_upstream_error("policy", error.code)
            raise

    def _pass_through(self, work: Work, candidate: Candidate) -> Answer:
        outcome = Outcome("passthrough", "candidates", "passthrough", [candidate])
        return self._finish(work, Pool([candidate]), outcome)

    async def _add_greedy(self, work: Work, pool: Pool, outcome: Outcome) -> None:
        """One unscored greedy completion to send instead of the winner; without time for it, the message."""
        candidate = Candidate(len(pool.candidates))
        try:
            async with asyncio.timeout(work.deadline.remaining()):
                await self._sample(work, candidate, work.plan.body(candidate.index, greedy=True))
        except (TimeoutError, ApiError):
            outcome.send, outcome.degraded = "fallback_message", outcome.degraded or "greedy_failed"
            return
        pool.candidates.append(candidate)
        work.permit.settle(sum(c.completion_tokens for c in pool.candidates))
        if (flag := flag_of(work.plan, candidate)) is not None:
            outcome.decision, outcome.reason = "review", f"red_flag:{flag}"
            if work.plan.settings.on_review == "hold_message":
                outcome.send = "hold_message"

    def _finish(self, work: Work, pool: Pool, outcome: Outcome) -> Answer:
        """Respond and record."""
        self.metrics.observe("total", time.perf_counter() - work.began, work.timings_ms)
        answer = respond(work, pool, outcome, self._policy_model(work))
        self.recent.remember(work.id, work.identity.tenant, answer.rerank)
        route, model = work.plan.route, self._policy_model(work)
        self.metrics.count_answer(route, model, pool.candidates, outcome.winner, outcome.degraded)
        self.metrics.count_request(route, model, outcome.decision, 200, time.perf_counter() - work.began)
        return answer

    async def _keep(self, work: Work, pool: Pool, outcome: Outcome) -> None:
        """Into the history, behind the request; what a person is promised is durable before the answer promises it."""
        if self.history is None:
            return
        review = escalation_of(
            work.plan.settings,
            work.id,
            decision=outcome.decision,
            held=outcome.send in ("hold_message", "fallback_message"),
            reason=outcome.reason or outcome.degraded or outcome.decision,
            has_winner=outcome.winner is not None,
        )
        work.timings_ms["total"] = round(1e3 * (time.perf_counter() - work.began), 2)
        store, versions = self.settings.store, {"policy": self._policy_model(work), "gateway": self._version}
        record = record_of(work, pool, outcome, review, versions, prompts=store.prompts, texts=store.texts)
        if not review.promised:
            self.history.add(record)
            return
        try:
            outcome.review_id = await self.history.keep(record)
        except StoreUnavailable:
            if outcome.send != "candidates":
                raise
            outcome.degraded = "review_not_kept"
            self.history.add(record)

    def _policy_model(self, work: Work) -> str:
        return self.settings.policy(work.plan.settings.policy).model

    def _observe_sampling(self, work: Work, pool: Pool, began: float) -> None:
        now = time.perf_counter()
        work.permit.settle(sum(c.completion_tokens for c in pool.candidates))
        first = min((c.first_token_at for c in pool.candidates if c.first_token_at), default=None)
        last = max((c.finished_at for c in pool.candidates if c.finished_at), default=now)
        if first is not None:
            self.metrics.observe("first_token", first - began, work.timings_ms)
        self.metrics.observe("sampling", last - began, work.timings_ms)
        if work.plan.strategy == "best_of_n":
            self.metrics.observe("scoring_tail", max(0.0, now - last), work.timings_ms)

    @contextmanager
    def _at_work(self, work: Work) -> Iterator[None]:
        with work.permit, self.metrics.request.inflight.track_inprogress():
            yield


def _another_pays(plan: Plan, pool: Pool) -> bool:
    """Whether one more candidate is expected to be worth its cost; without knowledge of that, it is."""
    known, curve, seen = pool.stopping.candidate_scores, pool.stopping.curve, [c.score or 0.0 for c in pool.scored]
    if plan.stopping.waves is None or known is None or curve is None or not seen:
        return True
    return expected_rise(known, curve.on, seen) >= plan.stopping.waves.cost


def _log_failure(task: asyncio.Task[None]) -> None:
    """A defect in what only saves tokens must not fail the request, and must be heard."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("stopping candidates failed: %s", frames(error))


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
