"""A checkpoint's calibration: scores over HTTP as in serving, a curve, and one more for each stopping rule."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from reward_model.calibration import Calibration
from reward_model.checkpoint.checkpoint import base_folder, load_formatter
from reward_model.checkpoint.manifest import Manifest, read_manifest
from reward_model.errors import BadInput
from reward_model.labels import LabelledReply
from reward_model.stopping import StoppingRule
from reward_model.training.calibration.calibrate import How, calibrate
from reward_model.training.calibration.labelled import Floats, shared_selection
from reward_model.training.calibration.partial_scores import MARKS, MIN_PROMPTS, measure_partial, score_partial
from reward_model.training.calibration.replay import ENDED, JudgedPool, measure_candidates, replay, trade_off
from reward_model.training.evaluation.scoring import API_KEY_VARIABLE, own_scorer, scored_by


def calibrate_checkpoint(
    folder: Path, replies: Sequence[LabelledReply], rules: Sequence[StoppingRule], how: How, url: str | None = None
) -> tuple[Calibration, Floats]:
    """The calibration of a checkpoint, with one under each stopping rule, and the replies' scores [R].

    `url` is a scorer that serves the checkpoint; without one, one is started. Raises BadInput where the replies
    do not bear a calibrator, or a stopping rule.
    """
    # What can be refused is refused before a scorer is started in vain.
    shared_selection(replies)
    manifest = read_manifest(folder)
    scores, partial = _scores(folder, manifest, replies, rules, url)
    known = measure_partial(replies, scores, partial)
    if known is None and rules:
        raise BadInput(f"a stopping rule needs {MIN_PROMPTS} prompts whose candidates were all judged")
    plain = calibrate(manifest.id, replies, scores, how)
    if known is None:
        return plain, scores
    spread = measure_candidates(replies, scores)
    judged = JudgedPool(replies, scores, partial, known, spread, plain.curve)
    for rule in rules:
        stopped = replay(rule, judged)
        own = calibrate(manifest.id, replies, scores, how, rule.name, stopped != ENDED)
        own.fitted_on["trade_off"] = trade_off(replies, scores, stopped)
        plain.by_stopping_rule[rule.name] = own
    return plain.model_copy(update={"partial_scores": known, "candidate_scores": spread}), scores


def _scores(
    folder: Path, manifest: Manifest, replies: Sequence[LabelledReply], rules: Sequence[StoppingRule], url: str | None
) -> tuple[Floats, dict[int, Floats]]:
    """Scores [R] of whole replies, and of their beginnings by number of tokens."""
    marks = sorted({*MARKS, *(mark for rule in rules if rule.gain for mark in rule.gain.marks)})
    key = os.environ.get(API_KEY_VARIABLE) if url else None
    with nullcontext(url) if url else own_scorer(folder) as address:
        scores = scored_by(str(address), manifest.id, key)(replies)
        formatter = load_formatter(base_folder(manifest.base), manifest.formatting)
        return scores, score_partial(replies, formatter, scored_by(str(address), manifest.id, key, partial=True), marks)
