"""A request as rows of the store: its prompt, candidates and decision. Pure."""

from __future__ import annotations

from service.request.candidate import Candidate
from service.request.outcome.outcome import Outcome
from service.request.pool import Pool
from service.request.work import Work
from service.reviews.escalation import Escalation
from service.settings import StoreSettings
from service.store.rows import Record, Row


def record_of(
    work: Work, pool: Pool, outcome: Outcome, escalation: Escalation, gateway: str, settings: StoreSettings
) -> Record:
    """The rows of a request; without its messages or its candidates' texts if they are not stored."""
    # OpenAI's parameter `store`: if false, counts are kept and nothing that somebody wrote.
    stored = work.request.store is not False
    response = _response(work, pool, outcome) | {
        "prompt": work.plan.messages if settings.prompts and stored else None,
        "versions": _versions(work, pool, gateway),
        "redacted": [],
        "review_chance": escalation.chance,
    }
    rows = [_candidate(work.id, candidate, texts=settings.texts and stored) for candidate in work.candidates]
    # Whole until a person has decided and the application has it: what is approved is what is sent.
    promised = work.candidates if escalation.promised else []
    held = [{"response_id": work.id, "index": each.index, "message": each.message()} for each in promised]
    return Record(response, rows, _ticket(response, escalation), held)


def _response(work: Work, pool: Pool, outcome: Outcome) -> Row:
    plan, winner = work.plan, outcome.winner
    parameters = {name: value for name, value in plan.body(0).items() if name not in _NOT_PARAMETERS}
    if work.request.store is False:
        parameters = {name: value for name, value in parameters.items() if isinstance(value, int | float)}
    return {
        "id": work.id,
        "at_ms": work.created * 1000,
        "tenant": work.identity.tenant,
        "user": work.request.user,
        "route": plan.route,
        "route_probability": plan.routed.probability,
        "route_rule": plan.routed.rule,
        "route_truncated": plan.routed.truncated,
        "locale": plan.locale,
        "decision": outcome.decision,
        "stop_reason": outcome.stop_reason,
        "degraded": outcome.degraded,
        "sent": outcome.sent,
        "winner": winner.index if winner else None,
        "score": winner.score if winner else None,
        "probability": winner.probability if winner else None,
        "n": plan.n,
        "n_completed": len(pool.completed),
        "n_scored": len(pool.scored),
        "prompt_tokens": max((candidate.prompt_tokens for candidate in work.candidates), default=0),
        "completion_tokens": sum(candidate.completion_tokens for candidate in work.candidates),
        "parameters": parameters | {"seed": plan.seed},
        "calibrator": pool.calibrator,
        "timings_ms": dict(work.timings_ms),
    }


def _versions(work: Work, pool: Pool, gateway: str) -> dict[str, str]:
    policy = work.plan.policy
    revision = {"policy_revision": policy.revision} if policy.revision else {}
    return {"policy": policy.model, **revision, "orm": pool.orm or "", "gateway": gateway}


def _candidate(response_id: str, candidate: Candidate, *, texts: bool) -> Row:
    return {
        "response_id": response_id,
        "index": candidate.index,
        "score": candidate.score,
        "probability": candidate.probability,
        "disagreement": candidate.disagreement,
        "finish_reason": candidate.finish_reason,
        "stopped": candidate.stopped,
        "completion_tokens": candidate.completion_tokens,
        "content": candidate.content if texts else None,
        "tool_calls": (candidate.tool_calls or None) if texts else None,
    }


def review_id_of(response_id: str) -> str:
    """Name of the ticket of an answer, known before it is opened."""
    return f"review-{response_id.removeprefix('chatcmpl-')}"


def _ticket(response: Row, escalation: Escalation) -> Row | None:
    """A ticket of an answer that a person sees."""
    if escalation.reason is None:
        return None
    return {
        "id": review_id_of(response["id"]),
        "response_id": response["id"],
        "at_ms": response["at_ms"],
        "tenant": response["tenant"],
        "route": response["route"],
        "reason": escalation.reason,
        "chance": escalation.chance,
        "status": "open",
    }


# The prompt stands beside them, and how an answer is sent says nothing of what was sampled.
_NOT_PARAMETERS = {"messages", "stream", "stream_options", "cache_salt"}
