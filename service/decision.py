"""What may be done with the winner. Pure: a probability and its calibrator in, a decision out."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Decision = Literal["accept", "review", "fallback", "passthrough"]


class Verdict(NamedTuple):
    """A decision, and what made it less than it could be (null when nothing did)."""

    decision: Decision
    degraded: str | None


def decide(
    probability: float | None,
    calibrator: dict[str, Any] | None,
    *,
    accept_threshold: float,
    review_threshold: float,
    n: int,
    stopping_rule: str,
) -> Verdict:
    """Accept, review or fall back.

    Without a calibrator nobody knows what the score means: a person decides. A calibrator of another event than
    `acceptable`, or fitted under another selection policy than the live one (n, stopping rule), never accepts.
    """
    if probability is None or calibrator is None:
        return Verdict("review", None)
    selection = calibrator.get("selection") or {}
    mismatch = selection.get("n") != n or selection.get("stopping_rule") != stopping_rule
    degraded = "calibration_mismatch" if mismatch else None
    if probability < review_threshold:
        return Verdict("fallback", degraded)
    may_accept = calibrator.get("event") == "acceptable" and not mismatch
    return Verdict("accept" if may_accept and probability >= accept_threshold else "review", degraded)
