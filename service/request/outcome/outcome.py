"""From a pool of candidates to what is sent. Pure, except for the errors that a route's settings request.

An `Outcome` is made once and never changed: what is answered, stored and counted is one value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from service.errors import DeadlineMissed, ScorerUnavailable
from service.request.candidate import Candidate
from service.request.outcome.decision import SEVERITY, Assessment, Decision, accept_threshold, decide
from service.request.outcome.flags import flag_of
from service.request.outcome.selection import ranked
from service.request.plan import Plan
from service.request.pool import Pool, StopReason

Sent = Literal["winner", "greedy", "held", "fallback"]


class Choice(NamedTuple):
    """One of OpenAI's choices: a candidate with what was decided about it. `sent` says whether it, or which message of
    the route, goes out."""

    candidate: Candidate | None
    decision: Decision
    sent: Sent
    reason: str | None = None


@dataclass(frozen=True)
class Outcome:
    """Who won, what was decided about each choice, what is sent, and why it is no better."""

    decision: Decision
    stop_reason: StopReason
    choices: tuple[Choice, ...]
    order: tuple[Candidate, ...] = ()
    degraded: str | None = None
    # Why a person is asked, in a word; None if the decision is another.
    reason: str | None = None
    review_id: str | None = None

    @property
    def winner(self) -> Candidate | None:
        """The best candidate, if there is one."""
        return self.order[0] if self.order else None

    @property
    def sent(self) -> Sent:
        """What the first choice holds."""
        return self.choices[0].sent

    @property
    def promised(self) -> bool:
        """Whether any choice tells the client that a person will answer."""
        return any(choice.sent in ("held", "fallback") for choice in self.choices)

    def wants_greedy(self, plan: Plan) -> bool:
        """Whether the route answers this fallback by a greedy completion."""
        scored = self.winner is not None and self.winner.score is not None
        return scored and self.sent == "fallback" and plan.settings.on_fallback == "greedy"


def conclude(plan: Plan, pool: Pool) -> Outcome:
    """Select and decide, in the order of the deadline rules.

    The best scored candidate; without any, the scorer's failure as the route says, or the first finished candidate
    unscored; without that, the route's outcome for a timeout. Raises ScorerUnavailable or DeadlineMissed if the route
    asks for an error.
    """
    if pool.scored:
        return _by_score(plan, pool)
    with_content = [candidate for candidate in pool.completed if not candidate.empty]
    if pool.completed and not with_content:
        return _nothing_to_send(plan, pool)
    if pool.scorer_error is not None and with_content:
        return _without_scorer(plan, pool, with_content, pool.scorer_error)
    if with_content:
        unscored = Assessment("review", "unscored", "unscored")
        return _outcome(plan, pool, with_content, [unscored], "unscored")
    if plan.settings.on_timeout == "error":
        raise DeadlineMissed(f"no candidate was ready within {plan.budget_ms} ms")
    return Outcome("fallback", pool.stop_reason, (Choice(None, "fallback", "fallback"),), degraded="deadline")


def passed_through(plan: Plan, candidate: Candidate) -> Outcome:
    """The outcome of a greedy route. It was sent as it decoded, so a flag can only ask a person to look at it later."""
    reason = f"red_flag:{flag}" if (flag := flag_of(plan, candidate)) else None
    return Outcome(
        "passthrough", "passthrough", (Choice(candidate, "passthrough", "greedy"),), (candidate,), None, reason
    )


def with_greedy(plan: Plan, outcome: Outcome, greedy: Candidate | None) -> Outcome:
    """A fallback answered by an unscored greedy completion; by the route's message if there is none."""
    if greedy is None or greedy.empty:
        return replace(outcome, degraded=outcome.degraded or "greedy_failed")
    if (flag := flag_of(plan, greedy)) is None:
        return replace(outcome, choices=(Choice(greedy, "fallback", "greedy"),))
    sent: Sent = "held" if plan.settings.on_review == "hold_message" else "greedy"
    choice = Choice(greedy, "review", sent, f"red_flag:{flag}")
    return replace(outcome, decision="review", reason=choice.reason, choices=(choice,))


def accepted(plan: Plan, pool: Pool, candidate: Candidate) -> bool:
    """Whether the candidate would be accepted if it won, and cannot lose for having been cut off."""
    if candidate.score is None or (plan.settings.length_cut_loses and candidate.finish_reason == "length"):
        return False
    return _assess(plan, pool, candidate, plan.stopping_rule).decision == "accept"


def _by_score(plan: Plan, pool: Pool) -> Outcome:
    order = ranked(pool.candidates, length_cut_loses=plan.settings.length_cut_loses)
    stop = pool.stop_reason
    # As the plan would have it: nothing failed and nothing was late.
    complete = stop in ("all_scored", "expected_gain", "early_accept")
    rule = plan.stopping_rule if complete else stop
    assessments = [_assess(plan, pool, candidate, rule) for candidate in order[: plan.choices]]
    return _outcome(plan, pool, order, assessments, assessments[0].degraded if complete else stop)


def _outcome(
    plan: Plan, pool: Pool, order: list[Candidate], assessments: list[Assessment], degraded: str | None
) -> Outcome:
    """Each choice is decided by itself; the answer as a whole is as good as the worst of them."""
    choices = [_choice(plan, candidate, its) for candidate, its in zip(order, assessments, strict=False)]
    if choices[0].sent != "winner":
        # Without the best reply the lesser ones are not sent either.
        choices = choices[:1]
    worst = max(choices, key=lambda choice: SEVERITY.index(choice.decision))
    reason = degraded if worst.reason == "calibration_mismatch" else worst.reason
    return Outcome(worst.decision, pool.stop_reason, tuple(choices), tuple(order), degraded, reason)


def _choice(plan: Plan, candidate: Candidate, assessment: Assessment) -> Choice:
    sent: Sent = "winner"
    if assessment.decision == "review" and plan.settings.on_review == "hold_message":
        sent = "held"
    if assessment.decision == "fallback" and plan.settings.on_fallback != "send":
        sent = "fallback"
    return Choice(candidate, assessment.decision, sent, assessment.reason)


def _assess(plan: Plan, pool: Pool, candidate: Candidate, stopping_rule: str) -> Assessment:
    return decide(
        candidate.probability,
        pool.calibrator,
        plan.selection(stopping_rule),
        flag=flag_of(plan, candidate),
        disagreement=candidate.disagreement,
        max_disagreement=plan.settings.max_disagreement,
        accept_threshold=accept_threshold(plan.accept_threshold, plan.settings.risk, pool.calibrator),
        review_threshold=plan.settings.review_threshold,
    )


def _nothing_to_send(plan: Plan, pool: Pool) -> Outcome:
    """Every reply is empty. None is accepted; a route that sends its fallbacks sends the first, marked."""
    return _outcome(plan, pool, pool.completed, [Assessment("fallback", "empty")], "empty")


def _without_scorer(plan: Plan, pool: Pool, order: list[Candidate], error: ScorerUnavailable) -> Outcome:
    if plan.settings.on_scorer_failure == "error":
        raise error
    if plan.settings.on_scorer_failure == "fallback_message":
        choice = Choice(order[0], "fallback", "fallback")
        return Outcome("fallback", "scorer_failed", (choice,), tuple(order), "scorer_failed")
    if (flag := flag_of(plan, order[0])) is not None:
        flagged = Assessment("review", "scorer_failed", f"red_flag:{flag}")
        return _outcome(plan, pool, order, [flagged], "scorer_failed")
    choice = Choice(order[0], "fallback", "winner")
    return Outcome("fallback", "scorer_failed", (choice,), tuple(order), "scorer_failed")
