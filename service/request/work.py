"""One request under way."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.admission.permit import Permit
from service.identity import Identity
from service.request.deadline import Deadline
from service.request.plan import Plan
from service.request.schemas import ChatRequest


@dataclass
class Work:
    """One request under way."""

    id: str
    request: ChatRequest
    identity: Identity
    plan: Plan
    deadline: Deadline
    began: float
    created: int
    permit: Permit
    timings_ms: dict[str, float] = field(default_factory=dict)
