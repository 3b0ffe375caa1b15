"""Whether a reviewer sees an answer, and with which chance: verdicts are reweighted by its inverse."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from service.settings import RouteSettings

# The reason of tickets that no client hears of.
SPOT_CHECK = "spot_check"


class Escalation(NamedTuple):
    """`reason` is None if no person sees the answer; `promised` if the client is told that one will."""

    chance: float
    reason: str | None
    promised: bool


def escalation_of(
    settings: RouteSettings, response_id: str, *, decision: str, held: bool, reason: str, has_winner: bool
) -> Escalation:
    """A held answer is always seen; of the answers that were sent, the fractions that the route names are sampled."""
    if held:
        return Escalation(1.0, reason, True)
    if decision == "review":
        chance = settings.review_share
        sampled = _sampled(response_id, chance)
        return Escalation(chance, reason if sampled else None, sampled)
    # Nobody waits for the verdict of a spot check, and no client hears of one.
    chance = settings.spot_check if has_winner else 0.0
    return Escalation(chance, SPOT_CHECK if _sampled(response_id, chance) else None, False)


def _sampled(response_id: str, chance: float) -> bool:
    """True with that chance. Ids are random, so their hashes are uniform; one id always gives one result."""
    return int.from_bytes(hashlib.sha256(f"review:{response_id}".encode()).digest()[:8]) < chance * 2**64
