"""Replays a stopping rule on candidates that were sampled to completion: what it saves and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reward_model.calibration import Curve
from reward_model.errors import BadInput
from reward_model.labels import LabelledReply
from reward_model.stopping import CandidateScores, PartialScores, StoppingRule, expected_rise, hopeless
from reward_model.training.calibration.labelled import Floats, all_judged, by_prompt, winners

# In an array of tokens: the candidate came to its end.
ENDED = -1


@dataclass(frozen=True)
class JudgedPool:
    """Candidates with their final scores, their scores at marks (nan where a reply is no longer than that), and what a
    rule may know of such scores."""

    replies: Sequence[LabelledReply]
    scores: Floats
    partial: Mapping[int, Floats]
    partial_scores: PartialScores
    candidate_scores: CandidateScores
    curve: Curve


def measure_candidates(replies: Sequence[LabelledReply], scores: Floats) -> CandidateScores:
    """Mean and deviations by the analysis of variance with one random effect (Searle et al., 1992), over prompts whose
    candidates were all judged."""
    prompts = [scores[p] for p in by_prompt(replies) if len(p) > 1 and all_judged([replies[i] for i in p])]
    means = np.array([own.mean() for own in prompts])
    within = sum(float(((own - own.mean()) ** 2).sum()) for own in prompts) / sum(len(own) - 1 for own in prompts)
    between = means.var(ddof=1) - within * float(np.mean([1 / len(own) for own in prompts]))
    return CandidateScores(
        mean=float(means.mean()), between=math.sqrt(max(0.0, between)), within=math.sqrt(within), prompts=len(prompts)
    )


def replay(rule: StoppingRule, judged: JudgedPool) -> NDArray[np.int64]:
    """The tokens at which the rule would have stopped each reply (0: it would not have begun it), `ENDED` for the rest.

    The candidates of a wave are taken to be decoded in step, a token of each at a time.

    Raises BadInput for a mark that was not measured.
    """
    marks = rule.gain.marks if rule.gain else ()
    if missing := [mark for mark in marks if judged.partial_scores.at(mark) is None]:
        known = [mark.tokens for mark in judged.partial_scores.marks]
        raise BadInput(f"partial scores were not measured at {missing} tokens; there are {known}")
    stopped = np.full(len(judged.replies), ENDED)
    for places in by_prompt(judged.replies):
        _replay_prompt(rule, judged, places, stopped)
    return stopped


def _replay_prompt(rule: StoppingRule, judged: JudgedPool, places: Sequence[int], stopped: NDArray[np.int64]) -> None:
    begun = 0
    for size in rule.waves_of(len(places)):
        wave = places[begun:size]
        begun = size
        if _replay_wave(rule, judged, places[:begun], wave, stopped):
            break
        seen = [float(judged.scores[i]) for i in places[:begun] if stopped[i] == ENDED]
        if rule.waves and expected_rise(judged.candidate_scores, judged.curve.on, seen) < rule.waves.cost:
            break
    stopped[list(places[begun:])] = 0


def _replay_wave(
    rule: StoppingRule, judged: JudgedPool, begun: Sequence[int], wave: Sequence[int], stopped: NDArray[np.int64]
) -> bool:
    """Whether one of the wave was accepted, which ends it all."""
    length = {i: judged.replies[i].completion_tokens or 0 for i in wave}
    marks = rule.gain.marks if rule.gain else ()
    for tokens in sorted({*length.values(), *marks}):
        left = [i for i in wave if stopped[i] == ENDED]
        if any(_accepted(rule, judged, i) for i in left if length[i] == tokens):
            stopped[[i for i in left if length[i] > tokens]] = tokens
            return True
        if rule.gain and tokens in marks:
            at = judged.partial[tokens]
            running = {i: float(at[i]) for i in left if length[i] > tokens and not np.isnan(at[i])}
            ended = {i: float(judged.scores[i]) for i in begun if stopped[i] == ENDED and i not in running}
            stopped[hopeless(judged.partial_scores, rule.gain.cost, tokens, running, ended)] = tokens
    return False


def _accepted(rule: StoppingRule, judged: JudgedPool, place: int) -> bool:
    if rule.accept_from is None or judged.replies[place].finish_reason == "length":
        return False
    return bool(judged.curve.on(judged.scores[place]) >= rule.accept_from)


def trade_off(replies: Sequence[LabelledReply], scores: Floats, stopped: NDArray[np.int64]) -> dict[str, float]:
    """What a rule that stopped replies so saves and costs, on prompts whose candidates were all judged.

    `tokens`: share of the completion tokens that are sampled; `loss`: what the winner's score loses on the mean, in
    standard deviations of winners' scores over prompts; `loss_of_best`: the same of the highest score, which is not the
    winner's where the token limit cut that reply off; `agreement`: share of prompts with the same winner;
    `acceptable` and `cut`: shares of winners that are acceptable and that the token limit cut off, `_of_all` without
    the rule.
    """
    groups = [group for group in by_prompt(replies) if all_judged([replies[j] for j in group])]
    places = [i for group in groups for i in group]
    tokens = np.array([replies[i].completion_tokens or 0 for i in places])
    spent = np.where(stopped[places] == ENDED, tokens, stopped[places])
    full = winners(scores, replies, np.zeros(len(replies), dtype=bool))
    left = winners(scores, replies, stopped != ENDED)
    labels = np.array([reply.acceptable for reply in replies])
    cut = np.array([reply.finish_reason == "length" for reply in replies])
    best = np.array([scores[group].max() for group in groups])
    best_left = np.array([scores[group][stopped[group] == ENDED].max() for group in groups])
    return {
        "tokens": round(float(spent.sum() / tokens.sum()), 4) if tokens.sum() else math.nan,
        "loss": round(float((scores[full].mean() - scores[left].mean()) / scores[full].std(ddof=1)), 4),
        "loss_of_best": round(float((best - best_left).mean() / best.std(ddof=1)), 4),
        "agreement": round(float((full & left).sum() / full.sum()), 4),
        "acceptable": round(float(labels[left].mean()), 4),
        "acceptable_of_all": round(float(labels[full].mean()), 4),
        "cut": round(float(cut[left].mean()), 4),
        "cut_of_all": round(float(cut[full].mean()), 4),
    }
