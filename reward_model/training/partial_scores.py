"""What the score of a completion's first tokens says of its final score, and whom a stopping rule would stop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from reward_model.errors import BadInput
from reward_model.formatting import Formatter
from reward_model.stopping import ExpectedGain, Mark, PartialScores, hopeless
from reward_model.training.data import LabelledReply, as_completion
from reward_model.training.labelled import Floats, all_judged, by_prompt, winners
from reward_model.training.scoring import Score

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
    xs, ys, free = [], [], 0
    for places in prompts:
        longer = [i for i in places if not np.isnan(partial[i])]
        if len(longer) > 1:
            xs.append(partial[longer] - partial[longer].mean())
            ys.append(scores[longer] - scores[longer].mean())
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
        # One degree of freedom a prompt goes into its mean, one more into the slope.
        deviation=float(np.sqrt(rest @ rest / (free - 1))),
        correlation=float(x @ y / np.sqrt((x @ x) * (y @ y))),
        candidates=len(x),
    )


def stopped_by(
    rule: ExpectedGain,
    known: PartialScores,
    replies: Sequence[LabelledReply],
    scores: Floats,
    partial: Mapping[int, Floats],
) -> NDArray[np.int64]:
    """The mark at which the rule would have stopped each reply, 0 for those that it lets end.

    The candidates of a prompt are taken to be decoded in step.

    Raises BadInput for a mark that was not measured.
    """
    if missing := [mark for mark in rule.marks if known.at(mark) is None]:
        raise BadInput(
            f"partial scores were not measured at {missing} tokens; there are {[m.tokens for m in known.marks]}"
        )
    stopped = np.zeros(len(replies), dtype=np.int64)
    for places in by_prompt(replies):
        for tokens in rule.marks:
            left = [i for i in places if not stopped[i]]
            running = {i: float(partial[tokens][i]) for i in left if not np.isnan(partial[tokens][i])}
            ended = {i: float(scores[i]) for i in left if i not in running}
            stopped[hopeless(known, rule.cost, tokens, running, ended)] = tokens
    return stopped


def trade_off(replies: Sequence[LabelledReply], scores: Floats, stopped: NDArray[np.int64]) -> dict[str, float]:
    """What a rule saves and what it costs, on prompts whose candidates were all judged.

    `tokens`: share of the completion tokens that are sampled; `loss`: what the winner's score loses on the mean, in
    standard deviations of winners' scores over prompts; `agreement`: share of prompts with the same winner;
    `acceptable` and `cut`: shares of winners that are acceptable and that the token limit cut off, `_of_all` without
    the rule.
    """
    places = [i for group in by_prompt(replies) if all_judged([replies[j] for j in group]) for i in group]
    tokens = np.array([replies[i].completion_tokens or 0 for i in places])
    spent = np.where(stopped[places] > 0, stopped[places], tokens)
    full, left = winners(scores, replies, np.zeros(len(replies), dtype=bool)), winners(scores, replies, stopped > 0)
    labels = np.array([reply.acceptable for reply in replies])
    cut = np.array([reply.finish_reason == "length" for reply in replies])
    return {
        "tokens": round(float(spent.sum() / tokens.sum()), 4) if tokens.sum() else math.nan,
        "loss": round(float((scores[full].mean() - scores[left].mean()) / scores[full].std(ddof=1)), 4),
        "agreement": round(float((full & left).sum() / full.sum()), 4),
        "acceptable": round(float(labels[left].mean()), 4),
        "acceptable_of_all": round(float(labels[full].mean()), 4),
        "cut": round(float(cut[left].mean()), 4),
        "cut_of_all": round(float(cut[full].mean()), 4),
    }
