"""How well the score of a partial completion predicts its final score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reward_model.labels import LabelledReply, as_completion
from reward_model.stopping import Mark, PartialScores
from reward_model.text.formatting import Formatter
from reward_model.training.calibration.labelled import Floats, all_judged, by_prompt, winners
from reward_model.training.evaluation.scoring import Score

MARKS = (16, 32, 48, 64, 96, 128)
# Fewer prompts say too little of a deviation; fewer candidates too little of a mark.
MIN_PROMPTS = 30
# Few enough that the scorer still has the keys and values of one mark when it sees the next.
_PROMPTS_AT_A_TIME = 32
MIN_CANDIDATES = 50


def score_partial(
    replies: Sequence[LabelledReply], formatter: Formatter, score: Score, marks: Sequence[int]
) -> dict[int, Floats]:
    """For each mark the score of every reply's first tokens; nan where the reply has no more than those.

    Only candidates of prompts whose candidates were all judged are scored: the others say nothing of a choice.
    """
    prompts = [places for places in by_prompt(replies) if all_judged([replies[i] for i in places])]
    ids = [formatter.full_completion_ids(as_completion(reply.completion)) for reply in replies]
    found = {mark: np.full(len(replies), np.nan) for mark in marks}
    for start in range(0, len(prompts), _PROMPTS_AT_A_TIME):
        members = [place for places in prompts[start : start + _PROMPTS_AT_A_TIME] for place in places]
        for mark in sorted(marks):
            longer = [i for i in members if len(ids[i]) - len(formatter.closing) > mark]
            parts = [formatter.tokenizer.decode(ids[i][:mark]) for i in longer]
            if longer:
                cut = [replies[i].model_copy(update={"completion": p}) for i, p in zip(longer, parts, strict=True)]
                found[mark][longer] = score(cut)
    return found


def measure_partial(
    replies: Sequence[LabelledReply], scores: Floats, partial: Mapping[int, Floats]
) -> PartialScores | None:
    """Slope and residual deviation within prompts at each mark; None where too few prompts were judged whole."""
    prompts = [places for places in by_prompt(replies) if len(places) > 1 and all_judged([replies[i] for i in places])]
    if len(prompts) < MIN_PROMPTS:
        return None
    best = scores[winners(scores, replies, np.zeros(len(replies), dtype=bool))]
    marks = [mark for tokens, at in sorted(partial.items()) if (mark := _mark(tokens, at, scores, prompts)) is not None]
    selection = replies[prompts[0][0]].selection
    return PartialScores(
        marks=marks,
        winner_deviation=float(best.std(ddof=1)),
        prompts=len(prompts),
        policy=selection.policy if selection else None,
    )


def _mark(tokens: int, partial: Floats, scores: Floats, prompts: Sequence[list[int]]) -> Mark | None:
    """Least squares of final on partial scores, both about the prompt's mean."""
    xs, ys, gaps, free = [], [], [], 0
    for places in prompts:
        longer = [i for i in places if not np.isnan(partial[i])]
        if len(longer) > 1:
            xs.append(partial[longer] - partial[longer].mean())
            ys.append(scores[longer] - scores[longer].mean())
            gaps.append(scores[longer] - partial[longer])
            free += len(longer) - 1
    if free < MIN_CANDIDATES:
        return None
    x, y = np.concatenate(xs), np.concatenate(ys)
    if not x.any() or not y.any():
        # All candidates begin with the same words.
        return None
    slope = float(x @ y / (x @ x))
    rest = y - slope * x
    return Mark(
        tokens=tokens,
        slope=slope,
        offset=float(np.concatenate(gaps).mean()),
        # One degree of freedom a prompt goes into its mean, one more into the slope.
        deviation=float(np.sqrt(rest @ rest / (free - 1))),
        correlation=float(x @ y / np.sqrt((x @ x) * (y @ y))),
        candidates=len(x),
    )
