"""The answer as OpenAI's objects, whole or in chunks, with the `rerank` object beside them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from service.request.candidate import Candidate
from service.request.outcome import Outcome
from service.request.pool import Pool
from service.request.work import Work

MODEL = "winnow"


@dataclass(frozen=True)
class Answer:
    """OpenAI's response body, the `rerank` object in it, and the headers that repeat its essentials."""

    body: dict[str, Any]
    rerank: dict[str, Any]
    headers: dict[str, str]


def respond(work: Work, pool: Pool, outcome: Outcome, policy_model: str) -> Answer:
    """Choices, usage and `rerank` of an outcome."""
    rerank = _rerank(work, pool, outcome, policy_model)
    body = {
        "id": work.id,
        "object": "chat.completion",
        "created": work.created,
        "model": MODEL,
        "choices": [_choice(work, index, sent) for index, sent in enumerate(_sent(work, pool, outcome))],
        "usage": _usage(pool),
        "rerank": rerank,
    }
    return Answer(body, rerank, _headers(rerank))


def completion_chunks(work: Work, answer: Answer, *, only_end: bool = False) -> Iterator[dict[str, Any]]:
    """The chunks of an answer; `only_end` leaves out what a passed-through stream has shown already.

    The last chunk carries `rerank`, and `usage` where the request asked for it.
    """
    if not only_end:
        for choice in answer.body["choices"]:
            message = dict(choice["message"])
            message.pop("refusal", None)
            calls = [call | {"index": i} for i, call in enumerate(message.pop("tool_calls", []))]
            delta = message | ({"tool_calls": calls} if calls else {})
            yield chunk_of(work, [_delta(choice["index"], delta, None, choice.get("logprobs"))])
            yield chunk_of(work, [_delta(choice["index"], {}, choice["finish_reason"])])
    options = work.request.stream_options
    last = chunk_of(work, []) | {"rerank": answer.rerank}
    if options is not None and options.include_usage:
        last["usage"] = answer.body["usage"]
    yield last


def chunk_of(work: Work, choices: list[dict[str, Any]]) -> dict[str, Any]:
    """OpenAI's `chat.completion.chunk`."""
    return {
        "id": work.id,
        "object": "chat.completion.chunk",
        "created": work.created,
        "model": MODEL,
        "choices": choices,
    }


def _delta(index: int, delta: dict[str, Any], finish_reason: str | None, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs}


def _sent(work: Work, pool: Pool, outcome: Outcome) -> list[Candidate]:
    """What the choices are made of: the top n candidates, the greedy one, or a message of the route."""
    if outcome.send == "candidates":
        return outcome.order[: work.request.n]
    if outcome.send == "greedy":
        return [pool.candidates[-1]]
    settings = work.plan.settings
    text = settings.hold_message if outcome.send == "hold_message" else settings.fallback_message
    return [Candidate(0, content=text, finish_reason="stop")]


def _choice(work: Work, index: int, candidate: Candidate) -> dict[str, Any]:
    return {
        "index": index,
        "message": candidate.message(),
        # A candidate that the deadline cut off has no reason of its own.
        "finish_reason": candidate.finish_reason or "length",
        "logprobs": {"content": candidate.logprobs} if work.request.logprobs else None,
    }


def _usage(pool: Pool) -> dict[str, int]:
    """What was spent: the prompt once, every candidate's completion tokens."""
    prompt = max((candidate.prompt_tokens for candidate in pool.candidates), default=0)
    completion = sum(candidate.completion_tokens for candidate in pool.candidates)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _rerank(work: Work, pool: Pool, outcome: Outcome, policy_model: str) -> dict[str, Any]:
    plan, winner = work.plan, outcome.winner
    reranked = plan.strategy == "best_of_n"
    candidates = pool.candidates[: plan.n]
    # An answer that was not accepted shows no candidate's text unless the route sends it anyway.
    with_content = work.request.rerank.return_candidates and outcome.send == "candidates"
    return {
        "route": plan.route,
        "route_probability": round(plan.route_probability, 4),
        "strategy": plan.strategy,
        "decision": outcome.decision,
        "stop_reason": outcome.stop_reason,
        "degraded": outcome.degraded,
        "orm": pool.orm,
        "calibrator": pool.calibrator,
        "policy": policy_model,
        "n_requested": plan.n,
        "n_completed": sum(candidate.finished for candidate in candidates),
        "n_scored": len(pool.scored),
        "winner": _winner(winner) if winner and reranked else None,
        "candidates": [c.summary(with_content=with_content) for c in candidates] if reranked else [],
        "review_id": outcome.review_id,
        "timings_ms": work.timings_ms,
    }


def _winner(candidate: Candidate) -> dict[str, Any]:
    return {
        "index": candidate.index,
        "score": candidate.score,
        "probability": candidate.probability,
        "completion_tokens": candidate.completion_tokens,
    }


def _headers(rerank: dict[str, Any]) -> dict[str, str]:
    winner = rerank["winner"] or {}
    probability = winner.get("probability")
    return {
        "x-winnow-route": rerank["route"],
        "x-winnow-decision": rerank["decision"],
        "x-winnow-probability": "unknown" if probability is None else f"{probability:.4f}",
        "x-winnow-orm": rerank["orm"] or "none",
        "Server-Timing": ", ".join(f"{stage};dur={value}" for stage, value in rerank["timings_ms"].items()),
    }
