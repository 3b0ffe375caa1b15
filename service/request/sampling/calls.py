"""Spans of the calls that one request makes for completions, by OpenTelemetry's GenAI conventions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from service.request.candidate import Candidate
from service.request.plan import Plan
from service.telemetry import tracing


def completion_call(plan: Plan, candidate: Candidate) -> AbstractContextManager[None]:
    """The span of sampling one candidate; at its end it has what the candidate came to."""
    return _recorded(plan, candidate) if tracing.recording() else nullcontext()


@contextmanager
def _recorded(plan: Plan, candidate: Candidate) -> Iterator[None]:
    model = plan.policy.model
    asked: tracing.Attributes = {
        tracing.OPERATION: "chat",
        tracing.REQUEST_MODEL: model,
        tracing.REQUEST_MAX_TOKENS: plan.max_tokens,
        tracing.CANDIDATE: candidate.index,
    }
    with tracing.span(tracing.chat_name(model), asked, "client") as call:
        try:
            yield
        finally:
            call.set(
                {
                    tracing.INPUT_TOKENS: candidate.prompt_tokens,
                    tracing.OUTPUT_TOKENS: candidate.completion_tokens,
                    tracing.FINISH_REASONS: [candidate.finish_reason] if candidate.finish_reason else None,
                }
            )
