"""A request as rows of the store: what was asked, what was sampled, what was decided. Pure."""

from __future__ import annotations

from service.request.outcome import Outcome
from service.request.pool import Pool
from service.request.work import Work
from service.reviews.escalation import Escalation
from service.settings import StoreSettings
from service.store.rows import Record, Row


def record_of(
    work: Work,
    pool: Pool,
    outcome: Outcome,
    review: Escalation,
    versions: dict[str, str],
    settings: StoreSettings,
) -> Record:
    """The rows of a request; without its messages, or without its candidates' texts, where they are not stored."""
    plan, request, winner = work.plan, work.request, outcome.winner
    sampled = work.candidates
    parameters = {name: value for name, value in plan.body(0).items() if name not in _NOT_PARAMETERS}
    response = {
        "id": work.id,
        "at_ms": work.created * 1000,
        "tenant": work.identity.tenant,
        "user": request.user,
        "route": plan.route,
        "route_probability": plan.route_probability,
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
        "prompt_tokens": max((candidate.prompt_tokens for candidate in sampled), default=0),
        "completion_tokens": sum(candidate.completion_tokens for candidate in sampled),
        "prompt": plan.messages if settings.prompts else None,
        "parameters": parameters | {"seed": plan.seed},
        "versions": versions | {"orm": pool.orm or ""},
        "calibrator": pool.calibrator,
        "timings_ms": dict(work.timings_ms),
        "redacted": [],
        "review_chance": review.chance,
    }
    rows = [
        {
            "response_id": work.id,
            "index": candidate.index,
            "score": candidate.score,
            "probability": candidate.probability,
            "disagreement": candidate.disagreement,
            "finish_reason": candidate.finish_reason,
            "stopped": candidate.stopped,
            "completion_tokens": candidate.completion_tokens,
            "content": candidate.content if settings.texts else None,
            "tool_calls": (candidate.tool_calls or None) if settings.texts else None,
        }
        for candidate in sampled
    ]
    return Record(response, rows, _ticket(response, review))


def review_id_of(response_id: str) -> str:
    """Name of the ticket of an answer, known before it is opened."""
    return f"review-{response_id.removeprefix('chatcmpl-')}"


def _ticket(response: Row, review: Escalation) -> Row | None:
    """A ticket of an answer that a person sees."""
    if review.reason is None:
        return None
    return {
        "id": review_id_of(response["id"]),
        "response_id": response["id"],
        "at_ms": response["at_ms"],
        "tenant": response["tenant"],
        "route": response["route"],
        "reason": review.reason,
        "chance": review.chance,
        "status": "open",
    }


# The prompt stands beside them, and how an answer is sent says nothing of what was sampled.
_NOT_PARAMETERS = {"messages", "stream", "stream_options", "cache_salt"}
