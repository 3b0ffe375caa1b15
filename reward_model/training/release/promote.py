"""`winnow promote`: an alias moves to a challenger that the gate lets through, or that an operator forces."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reward_model.checkpoint.checkpoint import load_checkpoint
from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.errors import BadInput, RewardModelError
from reward_model.labels import Pair, split_of
from reward_model.registry.history import Event, check_alias, history, operator, record, verify
from reward_model.registry.registry import CHAMPION, checkpoints, identify, read_aliases
from reward_model.training.evaluation.evaluate import score_pairs
from reward_model.training.evaluation.metrics import pair_figures
from reward_model.training.fit.truncation import describe, is_equal
from reward_model.training.release import gate


def promote(
    name: str,
    registry: Path,
    pairs: Sequence[Pair],
    alias: str = CHAMPION,
    high_risk: Collection[str] | None = None,
    margin: float = gate.MARGIN,
    seed: int = 0,
    against: str | None = None,
    force: str | None = None,
    by: str | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Point `alias` at `name` if it is no worse on `pairs` than the checkpoint `alias` points at, or than `against`.

    `force` is an operator's reason to go past the gate. The report is kept in the registry, whether or not it passed;
    what is returned says so in `promoted`. Pairs of the train split are left out: those that say so, and those without
    a split whose group's hash training puts there. Raises UnknownModel or IntegrityError when a checkpoint is gone or
    damaged, BadInput when the pairs judge nothing.
    """
    if force is not None and not force.strip():
        raise BadInput("an override needs its reason", param="force")
    check_alias(alias)
    challenger, current = identify(name, registry), read_aliases(registry).get(alias)
    if challenger == current:
        note = f"{alias} points at {challenger} already"
        return {"promoted": False, "alias": alias, "orm": challenger, "gate": None, "note": note}
    held_out = _held_out(pairs)
    champion = identify(against, registry) if against else current
    report = _report(challenger, champion, registry, held_out, (high_risk, margin, seed), force, device)
    passed = bool(report["passed"])
    kind: Literal["promote", "refuse"] = "promote" if passed or force else "refuse"
    moved = {"orm": challenger, "alias": alias, "was": current, "now": challenger}
    event = Event(by=by or operator(), event=kind, reason=None if passed else force, **moved)
    written = record(registry, event, report, if_unmoved=True)
    done = {"promoted": written.event == "promote", "alias": alias, "orm": challenger, "was": current}
    return {**done, "forced": written.reason, "gate_sha256": written.gate_sha256, "gate": report}


def _held_out(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs that no run has trained on; BadInput if none of them has a winner."""
    held_out = [pair for pair in pairs if (pair.split or split_of(pair.group)) != "train"]
    if not any(pair.outcome == "win" for pair in held_out):
        raise BadInput(
            "the pairs hold none that is held out and has a winner, so there is nothing to compare on; pairs that no "
            'run has trained on can say "split": "test"'
        )
    return held_out


def _report(
    challenger: str,
    champion: str | None,
    registry: Path,
    pairs: Sequence[Pair],
    how: tuple[Collection[str] | None, float, int],
    force: str | None,
    device: str,
) -> dict[str, Any]:
    """The gate's report with both names; of a first promotion, the challenger's figures and a note."""
    new, new_equal = _scored(challenger, registry, pairs, device)
    names = {"challenger": challenger, "champion": champion}
    if champion is None:
        note = "the alias pointed nowhere, so there was nothing to compare with"
        return {**names, "passed": True, "note": note, **_figures(pairs, new, new_equal)}
    try:
        old, old_equal = _scored(champion, registry, pairs, device)
    except RewardModelError as error:
        if force is None:
            raise
        note = f"the champion cannot be scored: {error}"
        return {**names, "passed": False, "note": note, **_figures(pairs, new, new_equal)}
    high_risk, margin, seed = how
    # A pair that only one of the two can tell apart is a difference between them, and counts.
    equal = new_equal & old_equal
    kept = _distinct(pairs, equal)
    report = gate.compare(kept, new[~equal], old[~equal], high_risk, margin, seed=seed)
    return {**names, "equal_after_truncation": int(equal.sum()), **report}


def _scored(
    identity: str, registry: Path, pairs: Sequence[Pair], device: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A checkpoint's scores [pairs, 2], and which pairs its truncation makes equal."""
    model = _load(identity, registry, device)
    equal = np.array([is_equal(pair, model.formatter) for pair in pairs], dtype=bool)
    return score_pairs(model, pairs), equal


def _figures(pairs: Sequence[Pair], scores: NDArray[np.float32], equal: NDArray[np.bool_]) -> dict[str, Any]:
    figures = pair_figures(_distinct(pairs, equal), scores[~equal])
    return {"equal_after_truncation": int(equal.sum()), "figures": figures}


def _distinct(pairs: Sequence[Pair], equal: NDArray[np.bool_]) -> list[Pair]:
    """The pairs that are not equal; BadInput when none of them has a winner."""
    kept = [pair for pair, same in zip(pairs, equal, strict=True) if not same]
    if not any(pair.outcome == "win" for pair in kept):
        raise BadInput(f"there is nothing to compare on: {describe(int(equal.sum()), len(pairs))}")
    return kept


def _load(identity: str, registry: Path, device: str) -> LoadedModel:
    verify(identity, registry, history(registry))
    return load_checkpoint(checkpoints(registry)[identity], device=device)
