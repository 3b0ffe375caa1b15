"""From a pool of candidates to what is sent. Pure, but for the errors that a route asks for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from routing.conversation import cleaned, pieces
from routing.rules import first_match
from service.errors import DeadlineMissed, ScorerUnavailable
from service.request.candidate import Candidate
from service.request.decision import Assessment, Decision, decide
from service.request.plan import Plan
from service.request.pool import Pool, StopReason
from service.request.selection import ranked

Send = Literal["candidates", "hold_message", "fallback_message", "greedy"]


@dataclass
class Outcome:
    """What was decided: who won, what is sent, and why it is no better."""

    decision: Decision
    send: Send
    stop_reason: StopReason
    order: list[Candidate] = field(default_factory=list)
    degraded: str | None = None
    # Why a person is asked, in a word; None where the decision is another.
    reason: str | None = None
    review_id: str | None = None

    @property
    def winner(self) -> Candidate | None:
        """The best candidate, if there is one."""
        return self.order[0] if self.order else None


def conclude(plan: Plan, pool: Pool) -> Outcome:
    """Select and decide, in the order of the deadline rules.

    The best scored candidate; without any, the scorer's failure as the route says, or the first finished
    candidate unscored; without that, the route's outcome for a timeout. Raises ScorerUnavailable or
    DeadlineMissed where the route asks for an error.
    """
    if pool.scored:
        return _by_score(plan, pool)
    if pool.scorer_error is not None and pool.completed:
        return _without_scorer(plan, pool, pool.scorer_error)
    if pool.completed:
        return _reviewed(plan, pool, pool.completed, "unscored", "unscored")
    if plan.settings.on_timeout == "error":
        raise DeadlineMissed(f"no candidate was ready within {plan.budget_ms} ms")
    return Outcome("fallback", "fallback_message", pool.stop_reason, degraded="deadline")


def _by_score(plan: Plan, pool: Pool) -> Outcome:
    order = ranked(pool.candidates, length_cut_loses=plan.settings.length_cut_loses)
    stop = pool.stop_reason
    # As the plan would have it: nothing failed and nothing was late.
    whole = stop in ("all_scored", "expected_gain", "early_accept")
    verdict = _verdict(plan, pool, order[0], plan.stopping_rule if whole else stop)
    degraded = verdict.degraded if whole else stop
    if verdict.decision == "accept":
        return Outcome("accept", "candidates", stop, order, degraded)
    if verdict.decision == "review":
        reason = degraded if verdict.reason == "calibration_mismatch" else verdict.reason
        return _reviewed(plan, pool, order, degraded, reason)
    sends: dict[str, Send] = {"send": "candidates", "message": "fallback_message", "greedy": "greedy"}
    return Outcome("fallback", sends[plan.settings.on_fallback], stop, order, degraded)


def accepted(plan: Plan, pool: Pool, candidate: Candidate) -> bool:
    """Whether the candidate would be accepted if it won, and cannot lose for having been cut off."""
    if candidate.score is None or (plan.settings.length_cut_loses and candidate.finish_reason == "length"):
        return False
    return _verdict(plan, pool, candidate, plan.stopping_rule).decision == "accept"


def _verdict(plan: Plan, pool: Pool, candidate: Candidate, stopping_rule: str) -> Assessment:
    return decide(
        candidate.probability,
        pool.calibrator,
        flag=flag_of(plan, candidate),
        disagreement=candidate.disagreement,
        max_disagreement=plan.settings.max_disagreement,
        accept_threshold=plan.accept_threshold,
        review_threshold=min(plan.settings.review_threshold, plan.accept_threshold),
        n=len(pool.candidates),
        stopping_rule=stopping_rule,
    )


def flag_of(plan: Plan, candidate: Candidate) -> str | None:
    """Name of the operators' rule that wants a person to look at this reply, or at what was asked."""
    if not plan.settings.red_flags:
        return None
    matched = first_match(plan.settings.red_flags, [cleaned(candidate.content), *pieces(plan.messages)])
    return matched.name if matched else None


def _without_scorer(plan: Plan, pool: Pool, error: ScorerUnavailable) -> Outcome:
    if plan.settings.on_scorer_failure == "error":
        raise error
    if plan.settings.on_scorer_failure == "first_candidate":
        if (flag := flag_of(plan, pool.completed[0])) is not None:
            return _reviewed(plan, pool, pool.completed, "scorer_failed", f"red_flag:{flag}")
        return Outcome("fallback", "candidates", "scorer_failed", pool.completed, "scorer_failed")
    return Outcome("fallback", "fallback_message", "scorer_failed", pool.completed, "scorer_failed")


def _reviewed(plan: Plan, pool: Pool, order: list[Candidate], degraded: str | None, reason: str | None) -> Outcome:
    send: Send = "candidates" if plan.settings.on_review == "send" else "hold_message"
    return Outcome("review", send, pool.stop_reason, order, degraded, reason)
