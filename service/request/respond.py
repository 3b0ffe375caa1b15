"""The answer as OpenAI's objects, whole or in chunks, with the `rerank` object beside them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from service.request.candidate import Candidate
from service.request.headers import header_value
from service.request.outcome.outcome import Choice, Outcome
from service.request.pool import Pool
from service.request.work import Work

MODEL = "winnow"


@dataclass(frozen=True)
class Answer:
    """OpenAI's response body, the `rerank` object in it, and the headers that repeat its essentials."""

    body: dict[str, Any]
    rerank: dict[str, Any]
    headers: dict[str, str]


def respond(work: Work, pool: Pool, outcome: Outcome) -> Answer:
    """Choices, usage and `rerank` of an outcome."""
    rerank = _rerank(work, pool, outcome)
    body = {
        "id": work.id,
        "object": "chat.completion",
        "created": work.created,
        "model": MODEL,
        "choices": [_choice(work, index, choice) for index, choice in enumerate(outcome.choices)],
        "usage": _usage(work.candidates),
        "rerank": rerank,
    }
    return Answer(body, rerank, _headers(rerank))


def completion_chunks(work: Work, answer: Answer) -> Iterator[dict[str, Any]]:
    """The chunks of a whole answer. The one that ends the last choice carries `rerank`."""
    choices = answer.body["choices"]
    for choice in choices:
        message = {name: value for name, value in choice["message"].items() if name != "refusal" or value is not None}
        calls = [call | {"index": i} for i, call in enumerate(message.pop("tool_calls", []))]
        delta = message | ({"tool_calls": calls} if calls else {})
        yield chunk_of(work, [_delta(choice["index"], delta, None, choice.get("logprobs"))])
        end = _delta(choice["index"], {}, choice["finish_reason"])
        if choice is not choices[-1]:
            yield chunk_of(work, [end])
    yield from ending_chunks(work, answer, [end])


def ending_chunks(work: Work, answer: Answer, choices: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The chunk that ends the stream's last choice, with `rerank`; then `usage` by itself if it was asked for."""
    yield chunk_of(work, choices) | {"rerank": answer.rerank}
    options = work.request.stream_options
    if options is not None and options.include_usage:
        yield chunk_of(work, []) | {"usage": answer.body["usage"]}


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


def _choice(work: Work, index: int, choice: Choice) -> dict[str, Any]:
    if choice.sent in ("held", "fallback"):
        return {"index": index, "message": _notice(work, choice.sent), "finish_reason": "stop", "logprobs": None}
    candidate = choice.candidate
    assert candidate is not None
    return {
        "index": index,
        "message": candidate.message(),
        # A candidate that the deadline cut off has no reason of its own.
        "finish_reason": candidate.finish_reason or "length",
        "logprobs": {"content": candidate.logprobs} if work.request.logprobs else None,
    }


def _notice(work: Work, sent: str) -> dict[str, Any]:
    """The route's message. A client that wants JSON must not parse it as such: there it is a refusal."""
    settings, response_format = work.plan.settings, work.request.response_format or {}
    text = settings.hold_message if sent == "held" else settings.fallback_message
    if response_format.get("type") in ("json_object", "json_schema"):
        return {"role": "assistant", "content": None, "refusal": text}
    return {"role": "assistant", "content": text, "refusal": None}


def _usage(candidates: list[Candidate]) -> dict[str, Any]:
    """What was spent: the prompt once, every candidate's completion tokens."""
    prompt = max((candidate.prompt_tokens for candidate in candidates), default=0)
    completion = sum(candidate.completion_tokens for candidate in candidates)
    usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    usage["total_tokens"] = prompt + completion
    cached = [candidate.cached_tokens for candidate in candidates if candidate.cached_tokens is not None]
    # Later candidates find the prompt that the first one cached; what was cached before is the least.
    return usage | ({"prompt_tokens_details": {"cached_tokens": min(cached)}} if cached else {})


def _rerank(work: Work, pool: Pool, outcome: Outcome) -> dict[str, Any]:
    plan, winner = work.plan, outcome.winner
    reranked = plan.strategy == "best_of_n"
    # An answer that was not accepted shows no candidate's text unless the route sends it anyway.
    with_content = work.request.rerank.return_candidates and outcome.sent == "winner"
    shown = {
        "route": plan.route,
        "route_probability": round(plan.routed.probability, 4),
        "route_rule": plan.routed.rule,
        "route_truncated": plan.routed.truncated,
        "strategy": plan.strategy,
        "decision": outcome.decision,
        "sent": outcome.sent,
        "stop_reason": outcome.stop_reason,
        "degraded": outcome.degraded,
        "orm": pool.orm,
        "calibrator": pool.calibrator,
        "policy": plan.policy.model,
        "n_requested": plan.n,
        "n_completed": len(pool.completed),
        "n_scored": len(pool.scored),
        "winner": _winner(winner) if winner and reranked else None,
        "candidates": [c.summary(with_content=with_content) for c in pool.candidates] if reranked else [],
        "review_id": outcome.review_id,
        "timings_ms": dict(work.timings_ms),
    }
    if len(outcome.choices) > 1:
        shown["choices"] = [_shown(choice) for choice in outcome.choices]
    return shown


def _shown(choice: Choice) -> dict[str, Any]:
    """What was decided about one of several choices."""
    index = None if choice.candidate is None else choice.candidate.index
    return {"candidate": index, "decision": choice.decision, "sent": choice.sent}


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
        "x-winnow-orm": header_value(rerank["orm"] or "none"),
        "Server-Timing": ", ".join(f"{stage};dur={value}" for stage, value in rerank["timings_ms"].items()),
    }
