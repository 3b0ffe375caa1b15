"""What may be done with the winner. Pure: a probability and its calibrator in, a decision out."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Decision = Literal["accept", "review", "fallback", "passthrough"]


class Assessment(NamedTuple):
    """A decision, what made it less than it could be (None when nothing did), and why a person is asked."""

    decision: Decision
    degraded: str | None
    reason: str | None = None


def decide(
    probability: float | None,
    calibrator: dict[str, Any] | None,
    *,
    accept_threshold: float,
    review_threshold: float,
    n: int,
    stopping_rule: str,
    flag: str | None = None,
    disagreement: float | None = None,
    max_disagreement: float | None = None,
) -> Assessment:
    """Accept, review or fall back.

    What an operator's rule flags, a person sees, whatever the probability. An ensemble that disagrees by more than
    `max_disagreement` (in scores) does not accept.
    Without a calibrator nobody knows what the score means: a person decides. A calibrator of another event than
    `acceptable`, or fitted under another selection policy than the live one (n, stopping rule), never accepts.
    """
    if probability is None or calibrator is None:
        return Assessment("review", None, "no_calibrator")
    selection = calibrator.get("selection") or {}
    mismatch = selection.get("n") != n or selection.get("stopping_rule") != stopping_rule
    degraded = "calibration_mismatch" if mismatch else None
    if flag is not None:
        return Assessment("review", degraded, f"red_flag:{flag}")
    if probability < review_threshold:
        return Assessment("fallback", degraded)
    if probability < accept_threshold:
        return Assessment("review", degraded, "probability")
    if mismatch or calibrator.get("event") != "acceptable":
        return Assessment("review", degraded, degraded or "calibrated_on_pairs")
    if disagreement is not None and max_disagreement is not None and disagreement > max_disagreement:
        return Assessment("review", degraded, "disagreement")
    return Assessment("accept", degraded)
