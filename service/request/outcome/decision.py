"""Decides whether a reply may be sent. Pure: a probability and its calibrator in, a decision out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Decision = Literal["accept", "review", "fallback", "passthrough"]

# From the best to the worst.
SEVERITY: tuple[Decision, ...] = ("accept", "passthrough", "review", "fallback")


class Assessment(NamedTuple):
    """A decision, what made it less than it could be (None if nothing did), and why a person is asked."""

    decision: Decision
    degraded: str | None
    reason: str | None = None


def decide(
    probability: float | None,
    calibrator: dict[str, Any] | None,
    live: Mapping[str, Any],
    *,
    accept_threshold: float | None,
    review_threshold: float,
    flag: str | None = None,
    disagreement: float | None = None,
    max_disagreement: float | None = None,
) -> Assessment:
    """Accept, review or fall back.

    What an operator's rule flags, a person sees, whatever the probability. An ensemble that disagrees by more than
    `max_disagreement` (in scores) does not accept. An `accept_threshold` below the other is both; where it is None,
    the labels support no threshold for the risk that the route bears, and nothing is accepted. Without a calibrator
    nobody knows what the score means: a person decides. A calibrator of another event than `acceptable`, or fitted
    under another selection than `live`, never accepts.
    """
    if probability is None or calibrator is None:
        return Assessment("review", None, "no_calibrator")
    mismatch = differs(calibrator.get("selection") or {}, live)
    degraded = "calibration_mismatch" if mismatch else None
    if flag is not None:
        return Assessment("review", degraded, f"red_flag:{flag}")
    if probability < min(review_threshold, 1.0 if accept_threshold is None else accept_threshold):
        return Assessment("fallback", degraded)
    if accept_threshold is None:
        return Assessment("review", degraded, "no_threshold")
    if probability < accept_threshold:
        return Assessment("review", degraded, "probability")
    if mismatch or calibrator.get("event") != "acceptable":
        return Assessment("review", degraded, degraded or "calibrated_on_pairs")
    if disagreement is not None and max_disagreement is not None and disagreement > max_disagreement:
        return Assessment("review", degraded, "disagreement")
    return Assessment("accept", degraded)


def accept_threshold(asked: float, risk: float | None, calibrator: Mapping[str, Any] | None) -> float | None:
    """The probability from which answers are accepted: `asked`, and under a `risk` no less than the threshold at which
    the calibrator holds that risk or a smaller one. None if it holds none."""
    if risk is None:
        return asked
    control = (calibrator or {}).get("risk") or {}
    if control.get("threshold") is None or control["alpha"] > risk:
        return None
    return max(asked, float(control["threshold"]))


def differs(fitted: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """The parts of the selection in which a request differs from what its calibrator was fitted under.

    `live` maps each part to (its value now, the route's own): a part that the calibrator does not record was fitted
    under the route's own settings, so a request may not change it.
    """
    return [name for name, (now, own) in live.items() if fitted.get(name, own) != now]
