"""`winnow evaluate`: how often a reward model ranks a pair as people did, beside its baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_model.calibration import route_of
from reward_model.checkpoint.loaded_model import LoadedModel
from reward_model.errors import BadInput, CheckpointError
from reward_model.labels import LabelledReply, Pair, as_completion, completions_of
from reward_model.model.reward_model import RewardModel
from reward_model.text.formatting import Completion, Message
from reward_model.training.evaluation.metrics import figures_by, length_controlled, pair_figures, rank_correlation
from reward_model.training.fit.packing import TokenPair, pack, tokenize
from reward_model.training.fit.trainer import score_rows
from reward_model.training.fit.truncation import distinct_pairs

# Messages, the replies to them, and the locale whose head may have a say.
PromptWithReplies = tuple[list[Message], Sequence[Completion], str | None]
# How a model scores the replies to prompts, in their order.
ScorePrompts = Callable[[Sequence[PromptWithReplies]], list[list[float]]]

# Tokens of one packed row or one padded batch: bounds memory at about 1 GB.
_TOKENS = 4096


def evaluate(model: LoadedModel, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The object that `winnow evaluate` prints.

    Pairs whose replies truncation makes equal are counted in `equal_after_truncation` and in nothing else.
    `spearman` is the rank correlation of the score difference with the annotators' margin, over the pairs
    that carry one. `calibration` repeats what the checkpoint's calibrator measured on labelled replies: pairs
    alone say nothing of probabilities.
    """
    distinct = distinct_pairs(pairs, model.formatter)
    return report_on(model, distinct, score_pairs(model, distinct), len(pairs) - len(distinct))


def report_on(
    model: LoadedModel,
    pairs: Sequence[Pair],
    scores: NDArray[np.float32],
    equal_after_truncation: int = 0,
    route: str | None = None,
) -> dict[str, Any]:
    """The same from scores of the distinct pairs; CheckpointError where one of them is no number.

    `route` picks the calibrator for pairs that name no bucket.
    """
    broken = [pair.id for pair, row in zip(pairs, scores, strict=True) if not np.isfinite(row).all()]
    if broken:
        raise CheckpointError(
            f"{model.id} gives no finite score to {len(broken)} of {len(pairs)} pairs, as {broken[0]}"
        )
    return {
        "orm": model.id,
        "equal_after_truncation": equal_after_truncation,
        **pair_figures(pairs, scores),
        "by_risk": figures_by(pairs, scores, lambda pair: pair.risk),
        "by_origin": figures_by(pairs, scores, _origins),
        "by_length": figures_by(pairs, scores, _by_length),
        "by_failure_mode": figures_by(pairs, scores, lambda pair: pair.failure_mode or "unknown"),
        "length_controlled": length_controlled(pairs, scores),
        "random": 0.5,
        "mean_gap": _mean_gaps(pairs, scores),
        "spearman": _spearman(pairs, scores),
        "calibration": _calibration(model, pairs, route),
    }


def _calibration(model: LoadedModel, pairs: Sequence[Pair], route: str | None) -> dict[str, Any] | None:
    """What the checkpoint's calibrator measured; by route too, for the pairs' routes that have a curve of their own."""
    calibration = model.calibration
    if calibration is None:
        return None
    taken = {route if pair.bucket == "unknown" else route_of(pair.bucket) for pair in pairs}
    own = {name: curve for name, curve in sorted(calibration.by_route.items()) if name in taken}
    shared = {"event": calibration.event, "ece": calibration.ece, "brier": calibration.brier}
    by_route = {name: {"ece": curve.ece, "brier": curve.brier} for name, curve in own.items()}
    return shared | ({"by_route": by_route} if by_route else {})


def score_pairs(model: LoadedModel, pairs: Sequence[Pair], score: ScorePrompts | None = None) -> NDArray[np.float32]:
    """Scores [pairs, 2] of (chosen, rejected), clipped where the checkpoint clips them in serving.

    Our own models compute a prompt once for all the pairs of a dialogue. Any other is scored by `score`, or by default
    one reply at a time, each distinct one once.
    """
    if isinstance(model.module, RewardModel):
        tokens = tokenize(pairs, model.formatter)
        return _score_packed(model, tokens, [pair.group for pair in pairs], [pair.locale for pair in pairs])
    asked = [(pair.prompt, completions_of(pair), pair.locale) for pair in pairs]
    found = score(asked) if score is not None else score_plainly(model, asked)
    return np.array(found, dtype=np.float32).reshape(-1, 2)


def _score_packed(
    model: LoadedModel, pairs: Sequence[TokenPair], groups: Sequence[str], locales: Sequence[str]
) -> NDArray[np.float32]:
    """Scores [pairs, 2] by a model of our own, in rows that hold each prompt and each reply once."""
    assert isinstance(model.module, RewardModel)
    scores = score_rows(model.module, pack(pairs, groups, _TOKENS // 2), _TOKENS, locales)
    clip = model.manifest.score_clip if model.manifest else None
    return scores if clip is None else scores.clip(*clip)


def score_plainly(model: LoadedModel, prompts: Sequence[PromptWithReplies]) -> list[list[float]]:
    """Scores of the replies to each prompt, from whole sequences; identical ones are computed once."""
    replies = [
        (locale, (*prompt, *completion))
        for messages, completions, locale in prompts
        for prompt, completion in model.formatter.sequences(messages, completions)
    ]
    places = {reply: place for place, reply in enumerate(dict.fromkeys(replies))}
    distinct = score_sequences(model, [ids for _, ids in places], [locale for locale, _ in places])
    scores = iter(distinct[[places[reply] for reply in replies]].tolist())
    return [list(islice(scores, len(completions))) for _, completions, _ in prompts]


def score_sequences(
    model: LoadedModel, sequences: Sequence[Sequence[int]], locales: Sequence[str | None] | None = None
) -> NDArray[np.float32]:
    """Scores of token sequences, in their order, computed in batches of similar length."""
    scores = np.zeros(len(sequences), dtype=np.float32)

    def score(batch: list[int]) -> None:
        heads = None if locales is None else [locales[i] for i in batch]
        scores[batch] = model.score([sequences[i] for i in batch], heads).numpy()

    batch: list[int] = []
    for index in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
        # Sorted, so the newest is the longest: the padded size is its length times the count.
        if batch and len(sequences[index]) * (len(batch) + 1) > _TOKENS:
            score(batch)
            batch = []
        batch.append(index)
    if batch:
        score(batch)
    return scores


def rate_correlation(
    model: LoadedModel, replies: Sequence[LabelledReply], score: ScorePrompts | None = None
) -> dict[str, Any]:
    """Spearman's rho of scores with pointwise ratings from 1 to 5: over all replies, and within prompts.

    Scores are comparable within one prompt only, so the second is the one to look at: score and rating less their
    prompt's mean. Raises BadInput without ratings.
    """
    rated = [reply for reply in replies if reply.rating is not None]
    if not rated:
        raise BadInput("none of the labelled replies has a rating")
    scores = _score_replies(model, rated, score).astype(np.float64)
    ratings = np.array([reply.rating for reply in rated], dtype=np.float64)
    members: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, reply in enumerate(rated):
        members[reply.prompt_key()].append(number)
    centred = [values - _prompt_means(values, members) for values in (scores, ratings)]
    return {
        "replies": len(rated),
        "prompts": len(members),
        "all": rank_correlation(scores, ratings),
        "within_prompts": rank_correlation(*centred),
    }


def _score_replies(
    model: LoadedModel, replies: Sequence[LabelledReply], score: ScorePrompts | None
) -> NDArray[np.float32]:
    if isinstance(model.module, RewardModel):
        # The same reply twice: a row holds it once.
        pairs = [
            TokenPair(number, model.formatter.prompt_ids(reply.prompt), completion, completion)
            for number, reply in enumerate(replies)
            for completion in [model.formatter.completion_ids(as_completion(reply.completion))]
        ]
        groups, locales = [reply.group for reply in replies], [reply.locale for reply in replies]
        return _score_packed(model, pairs, groups, locales)[:, 0]
    asked = [(reply.prompt, [as_completion(reply.completion)], reply.locale) for reply in replies]
    found = score(asked) if score is not None else score_plainly(model, asked)
    return np.array(found, dtype=np.float32).ravel()


def _prompt_means(values: NDArray[np.float64], members: dict[tuple[str, ...], list[int]]) -> NDArray[np.float64]:
    means = np.zeros_like(values)
    for rows in members.values():
        means[rows] = values[rows].mean()
    return means


def _by_length(pair: Pair) -> str:
    lengths = [len(as_completion(reply).text()) for reply in (pair.chosen, pair.rejected)]
    return (
        "same_length" if lengths[0] == lengths[1] else "winner_longer" if lengths[0] > lengths[1] else "winner_shorter"
    )


def _origins(pair: Pair) -> str:
    return f"{pair.origin.chosen or 'unknown'} over {pair.origin.rejected or 'unknown'}"


def _mean_gaps(pairs: Sequence[Pair], scores: NDArray[np.float32]) -> dict[str, float | None]:
    """Mean |difference of scores| on wins and on ties: a model that feels ties gives them the smaller one."""
    gaps = np.abs(scores[:, 0] - scores[:, 1])
    ties = np.array([pair.outcome == "tie" for pair in pairs], dtype=bool)
    named = {"wins": gaps[~ties], "ties": gaps[ties]}
    return {name: round(float(values.mean()), 4) if len(values) else None for name, values in named.items()}


def _spearman(pairs: Sequence[Pair], scores: NDArray[np.float32]) -> float | None:
    rated = [(pair.margin, scores[i, 0] - scores[i, 1]) for i, pair in enumerate(pairs) if pair.margin is not None]
    if not rated:
        return None
    margins, differences = np.array(rated, dtype=np.float64).T
    return rank_correlation(margins, differences)
