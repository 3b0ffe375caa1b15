"""What a reward model has to beat: rules and small models that read the prompt not at all, or only its last turn.

They learn from the training split where there is one, else from the other folds of the set itself, split by group. A
set on which they come close measures form, not judgement, whatever the reward model reaches there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reward_model.labels import Pair, as_completion
from reward_model.text.formatting import Message
from reward_model.training.evaluation.metrics import pair_figures

Scores = NDArray[np.floating[Any]]
# From training pairs and the pairs to be judged to scores [pairs, 2] of (chosen, rejected).
Learner = Callable[[Sequence[Pair], Sequence[Pair]], Scores]

HIDDEN = [Message(role="user", content="")]
_FOLDS = 5
# Fewer training pairs than this say too little.
_LEAST = 20


def baselines(
    pairs: Sequence[Pair], train: Sequence[Pair], score: Callable[[Sequence[Pair]], Scores]
) -> dict[str, Any]:
    """Accuracy and its interval by baseline; `score` gives the reward model's own scores of pairs.

    `reply_only` is the reward model behind an empty prompt; `bag_of_words` a linear model on the replies' words;
    `next_step`, for dialogues, how often a reply has followed the last one; `longer_wins` the longer reply. `replies`
    counts the distinct replies, and how many of them also stand in the training pairs, where these are known.
    """
    decided = [pair for pair in pairs if pair.outcome == "win"]
    if not decided:
        return {}
    learned_from = [pair for pair in train if pair.outcome == "win"]
    found: dict[str, Scores] = {
        "longer_wins": np.array([[len(text) for text in _texts(pair)] for pair in decided], dtype=np.float64),
        "reply_only": score([pair.model_copy(update={"prompt": HIDDEN}) for pair in decided]),
        "bag_of_words": _learned(bag_of_words, learned_from, decided),
    }
    if any(_last_reply(pair) for pair in decided):
        found["next_step"] = _learned(next_step, learned_from, decided)
    figures: dict[str, Any] = {name: _accuracy(decided, scores) for name, scores in found.items()}
    return {**figures, "replies": _replies(decided, learned_from), "learned_from": _source(learned_from)}


def bag_of_words(train: Sequence[Pair], test: Sequence[Pair]) -> Scores:
    """Scores of a logistic regression on the differences of word and word-pair indicators of the replies."""
    from scipy.sparse import vstack
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    # Punctuation counts too: a section sign or an exclamation mark can be a template.
    words = CountVectorizer(ngram_range=(1, 2), min_df=2, binary=True, token_pattern=r"(?u)\b\w+\b|[^\w\s]")
    try:
        words.fit([text for pair in train for text in _texts(pair)])
    except ValueError:  # no word stands in two replies
        return np.zeros((len(test), 2))
    chosen, rejected = (words.transform([_texts(pair)[side] for pair in train]) for side in (0, 1))
    gaps = (chosen - rejected).astype(np.float64)
    fitted = LogisticRegression(C=0.1, fit_intercept=False, max_iter=1000)
    fitted.fit(vstack([gaps, -gaps]), np.repeat([1, 0], len(train)))
    sides = [words.transform([_texts(pair)[side] for pair in test]) @ fitted.coef_[0] for side in (0, 1)]
    return np.stack(sides, axis=1)


def next_step(train: Sequence[Pair], test: Sequence[Pair]) -> Scores:
    """How often a reply won after the dialogue's last reply in training; how often anywhere decides between equals."""
    steps = Counter((_last_reply(pair), _texts(pair)[0]) for pair in train)
    anywhere = Counter(_texts(pair)[0] for pair in train)
    whole = 1 + len(train)
    return np.array(
        [[steps[_last_reply(pair), text] + anywhere[text] / whole for text in _texts(pair)] for pair in test],
        dtype=np.float64,
    ).reshape(-1, 2)


def _learned(learner: Learner, train: Sequence[Pair], pairs: Sequence[Pair]) -> Scores:
    """Scores by a learner that saw none of the pairs' groups."""
    if len(train) >= _LEAST:
        return learner(train, pairs)
    groups = {group: number % _FOLDS for number, group in enumerate(sorted({pair.group for pair in pairs}))}
    folds = np.array([groups[pair.group] for pair in pairs])
    scores = np.zeros((len(pairs), 2))
    for fold in set(folds.tolist()):
        others, asked = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if len(others):
            scores[asked] = learner([pairs[i] for i in others], [pairs[i] for i in asked])
    return scores


def _accuracy(pairs: Sequence[Pair], scores: Scores) -> dict[str, Any]:
    figures = pair_figures(pairs, scores)
    return {name: figures[name] for name in ("accuracy", "accuracy_ci")}


def _replies(pairs: Sequence[Pair], train: Sequence[Pair]) -> dict[str, int | None]:
    distinct = {text for pair in pairs for text in _texts(pair)}
    known = {text for pair in train for text in _texts(pair)}
    return {"distinct": len(distinct), "in_training": len(distinct & known) if train else None}


def _source(train: Sequence[Pair]) -> str:
    return f"{len(train)} training pairs" if len(train) >= _LEAST else f"the set itself, in {_FOLDS} folds by group"


def _last_reply(pair: Pair) -> str:
    return next((m.text().lower() for m in reversed(pair.prompt) if m.role == "assistant"), "")


def _texts(pair: Pair) -> tuple[str, str]:
    return as_completion(pair.chosen).text().lower(), as_completion(pair.rejected).text().lower()
