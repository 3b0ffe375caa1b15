"""One request in progress."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.admission.permit import Permit
from service.identity import Identity
from service.request.candidate import Candidate
from service.request.deadline import Deadline
from service.request.plan import Plan
from service.request.schemas import ChatRequest


@dataclass
class Work:
    """A request with what was planned for it.

    `began` is on the clock of `time.perf_counter`, `created` in seconds since 1970; `timings_ms` grows by a stage at a
    time and is complete before the answer is made.
    """

    id: str
    request: ChatRequest
    identity: Identity
    plan: Plan
    deadline: Deadline
    began: float
    created: int
    permit: Permit
    timings_ms: dict[str, float] = field(default_factory=dict)
    # What was sampled so far: what a request without an answer spent is counted too.
    candidates: list[Candidate] = field(default_factory=list)
