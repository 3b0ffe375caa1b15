"""Whether a person sees an answer, and how likely that was: what is learnt from verdicts is weighted by its inverse."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from service.outcome import Outcome
from service.plan import Plan


class Review(NamedTuple):
    """`reason` is None where nobody sees it; `promised` where the client is told that somebody will."""

    chance: float
    reason: str | None
    promised: bool


def review_of(plan: Plan, outcome: Outcome, response_id: str) -> Review:
    """What is held is always seen; of what was sent, the shares that the route names, drawn by the answer's id."""
    if outcome.send in ("hold_message", "fallback_message"):
        return Review(1.0, outcome.reason or outcome.degraded or outcome.decision, True)
    if outcome.decision == "review":
        chance = plan.settings.review_share
        drawn = _drawn(response_id, chance)
        return Review(chance, (outcome.reason or outcome.decision) if drawn else None, drawn)
    # Nobody waits for the verdict of a spot check, and no client hears of one.
    chance = plan.settings.spot_check if outcome.winner is not None else 0.0
    return Review(chance, "spot_check" if _drawn(response_id, chance) else None, False)


def _drawn(response_id: str, chance: float) -> bool:
    """With that chance. Ids are random, so their hashes are evenly spread; the same id is always drawn alike."""
    return int.from_bytes(hashlib.sha256(f"review:{response_id}".encode()).digest()[:8]) < chance * 2**64
