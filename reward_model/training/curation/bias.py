"""What makes a winner without being read: the place where it was shown, and its length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from reward_model.estimates import wilson
from reward_model.labels import Pair, as_completion


def position_bias(pairs: Sequence[Pair]) -> dict[str, Any]:
    """How often the winner was the reply shown first, of the decided pairs whose order is known; by source too.

    Without bias it is a half: `p_value` is the exact two-sided binomial test of that.
    """
    known = [pair for pair in pairs if pair.outcome == "win" and pair.shown_first is not None]
    by_source = _grouped(known, lambda pair: pair.source)
    return {
        **_first_share([pair.shown_first == "chosen" for pair in known]),
        "order_unknown": sum(pair.shown_first is None for pair in pairs),
        "by_source": {
            name: _first_share([pair.shown_first == "chosen" for pair in members])
            for name, members in by_source.items()
        },
    }


def _first_share(winner_first: list[bool]) -> dict[str, Any]:
    from scipy.stats import binomtest

    first, pairs = sum(winner_first), len(winner_first)
    return {
        "pairs": pairs,
        "winner_first": round(first / pairs, 4) if pairs else None,
        "winner_first_ci": wilson(first, pairs) if pairs else None,
        "p_value": float(binomtest(first, pairs).pvalue) if pairs else None,
    }


def length_bias(pairs: Sequence[Pair]) -> dict[str, Any]:
    """How often the longer reply (characters) wins, equal lengths as half; by bucket too.

    It is the accuracy of a model that knows nothing but length.
    """
    decided = [pair for pair in pairs if pair.outcome == "win"]
    by_bucket = _grouped(decided, lambda pair: pair.bucket)
    return {
        **_longer_share(decided),
        "by_bucket": {name: _longer_share(members) for name, members in by_bucket.items()},
    }


def _longer_share(pairs: Sequence[Pair]) -> dict[str, Any]:
    lengths = [reply_lengths(pair) for pair in pairs]
    longer = sum((won > lost) + 0.5 * (won == lost) for won, lost in lengths)
    return {
        "pairs": len(pairs),
        "longer_wins": round(longer / len(pairs), 4) if pairs else None,
        "longer_wins_ci": wilson(longer, len(pairs)) if pairs else None,
        "median_ratio": round(median((won + 1) / (lost + 1) for won, lost in lengths), 3) if pairs else None,
    }


def reply_lengths(pair: Pair) -> tuple[int, int]:
    """Characters of the chosen and of the rejected reply."""
    return len(as_completion(pair.chosen).text()), len(as_completion(pair.rejected).text())


def _grouped(pairs: Iterable[Pair], key: Callable[[Pair], str]) -> dict[str, list[Pair]]:
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        groups[key(pair)].append(pair)
    return dict(sorted(groups.items()))
