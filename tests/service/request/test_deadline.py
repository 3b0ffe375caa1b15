"""Time that a request has left."""

from __future__ import annotations

from service.request.deadline import Deadline


def test_a_deadline_counts_down_and_stays_at_zero() -> None:
    now = [100.0]
    deadline = Deadline(1500, clock=lambda: now[0])
    assert (deadline.remaining(), deadline.remaining_ms(), deadline.passed) == (1.5, 1500, False)
    now[0] = 200.0
    assert (deadline.remaining(), deadline.passed) == (0.0, True)
