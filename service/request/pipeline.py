"""One request, from its route to its record. Read `Pipeline.answer` first: each line is a stage.

route -> plan -> sample(n) -> score as they finish -> select and decide -> store -> respond
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace
from importlib.metadata import version

import orjson

from routing.batcher import RouteBatcher
from service.admission.admission import Admission
from service.errors import StoreUnavailable
from service.identity import Identity
from service.request.deadline import Deadline
from service.request.outcome.outcome import Outcome, conclude, passed_through, with_greedy
from service.request.passthrough import Passthrough
from service.request.plan import make_plan
from service.request.pool import Pool
from service.request.recent import RecentResponses
from service.request.records import record_of, review_id_of
from service.request.respond import Answer, completion_chunks, ending_chunks, respond
from service.request.sampling.sampling import Sampling
from service.request.schemas import ChatRequest
from service.request.work import Work
from service.reviews.escalation import escalation_of
from service.settings import Settings
from service.store.history import History
from service.telemetry.metrics import Metrics, tokens_spent
from service.telemetry.summary import note
from service.upstream.policy import Policy
from service.upstream.scorer import Scorer


class Pipeline:
    """Everything a request needs, built once by the app."""

    def __init__(
        self,
        settings: Settings,
        policies: Mapping[str, Policy],
        scorer: Scorer,
        router: RouteBatcher,
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
        self._endpoints = {name: settings.policy(name) for name in policies}
        self._version = version("winnow-rerank")

    async def prepare(self, request: ChatRequest, identity: Identity, response_id: str) -> Work:
        """Route, plan and reserve: what must be known before the first byte of a response."""
        began, timings = time.perf_counter(), dict[str, float]()
        with self.metrics.stage("route", timings):
            decision = await self.router.route(request.policy_messages())
        route = self.settings.routes[decision.route]
        policy = self._endpoints[route.policy]
        plan = make_plan(request, identity, decision, route, policy)
        note(response_id=response_id, route=plan.route, model=policy.model, stream=request.stream, n=plan.n)
        deadline = Deadline(plan.budget_ms - (time.perf_counter() - began) * 1000)
        with self.metrics.stage("admission"):
            permit = await self.admission.reserve(
                identity, plan.route, n=plan.n, min_n=plan.least_n, max_tokens=plan.max_tokens
            )
        if permit.n < plan.n:
            plan = replace(plan, n=permit.n)
            note(n=plan.n)
        return Work(response_id, request, identity, plan, deadline, began, int(time.time()), permit, timings)

    async def answer(self, work: Work) -> Answer:
        """The whole answer at once."""
        with self._at_work(work):
            if work.plan.strategy == "greedy":
                greedy = self._passthrough(work)
                await greedy.complete()
                return await self._finish(work, Pool((greedy.candidate,)), passed_through(work.plan, greedy.candidate))
            sampling = Sampling(work, self._policy(work), self.scorer, self.metrics)
            pool = await sampling.run()
            with self.metrics.stage("decide"):
                outcome = conclude(work.plan, pool)
            if outcome.wants_greedy(work.plan):
                outcome = with_greedy(work.plan, outcome, await sampling.greedy())
            return await self._finish(work, pool, outcome)

    async def stream(self, work: Work) -> AsyncGenerator[list[bytes], None]:
        """OpenAI's chunks: of a greedy answer as it decodes, of a best-of-N one when its winner is known.

        Whatever is wrong with a greedy request is raised before the first chunk.
        """
        if work.plan.strategy == "best_of_n":
            answer = await self.answer(work)
            yield [orjson.dumps(chunk) for chunk in completion_chunks(work, answer)]
            return
        with self._at_work(work):
            greedy = self._passthrough(work)
            async with aclosing(greedy.relay()) as blocks:
                async for block in blocks:
                    yield block
            outcome = passed_through(work.plan, greedy.candidate)
            answer = await self._finish(work, Pool((greedy.candidate,)), outcome)
            yield [orjson.dumps(chunk) for chunk in ending_chunks(work, answer, greedy.last_choices)]

    async def _finish(self, work: Work, pool: Pool, outcome: Outcome) -> Answer:
        """Store, respond, count. The time is taken once: what is stored is what is answered."""
        self.metrics.observe("total", time.perf_counter() - work.began, work.timings_ms)
        with self.metrics.stage("store"):
            outcome = await self._store(work, pool, outcome)
        with self.metrics.stage("respond"):
            answer = respond(work, pool, outcome)
        self.recent.remember(work.id, work.identity.tenant, answer.rerank, work.request.user)
        plan = work.plan
        self.metrics.count_answer(plan.route, plan.policy.model, work.candidates, outcome.winner, outcome.degraded)
        note(decision=outcome.decision, sent=outcome.sent, degraded=outcome.degraded, timings_ms=work.timings_ms)
        return answer

    async def _store(self, work: Work, pool: Pool, outcome: Outcome) -> Outcome:
        """Into the history, behind the request; a ticket that the answer promises is durable before it promises it.

        Greedy answers are recorded if their route is one whose answers are judged. Returns the outcome with its
        ticket. Raises StoreUnavailable if the client would be told that a person answers, and none would.
        """
        if self.history is None or work.plan.strategy == work.plan.settings.strategy == "greedy":
            return outcome
        escalation = escalation_of(
            work.plan.settings,
            work.id,
            decision=outcome.decision,
            held=outcome.promised,
            reason=outcome.reason or outcome.degraded or outcome.decision,
            has_winner=outcome.winner is not None,
        )
        if escalation.promised:
            outcome = replace(outcome, review_id=review_id_of(work.id))
        record = record_of(work, pool, outcome, escalation, self._version, self.settings.store)
        if not escalation.promised:
            self.history.add(record)
            return outcome
        try:
            await self.history.keep(record)
        except StoreUnavailable:
            if outcome.promised:
                raise
            self.history.add(record)
            return replace(outcome, degraded="review_not_kept", review_id=None)
        return outcome

    def _policy(self, work: Work) -> Policy:
        return self.policies[work.plan.settings.policy]

    def _passthrough(self, work: Work) -> Passthrough:
        return Passthrough(work, self._policy(work), self.metrics)

    @contextmanager
    def _at_work(self, work: Work) -> Iterator[None]:
        self.metrics.request.inflight.inc()
        with work.permit:
            try:
                yield
            except BaseException:
                self.metrics.count_failure(work.plan.route, work.plan.policy.model, work.candidates)
                raise
            finally:
                self.metrics.request.inflight.dec()
                spent = tokens_spent(work.candidates)
                note(prompt_tokens=spent.prompt, completion_tokens=spent.completion)
                work.permit.settle(spent.completion)
