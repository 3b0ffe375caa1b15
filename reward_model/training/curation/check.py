"""`winnow data check`: what a team has to know of its pairs before it trains on them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import inf, isfinite
from typing import Any

from reward_model.labels import Pair, digest, split_of
from reward_model.text.formatting import Formatter
from reward_model.training.curation.agreement import agreement_by_bucket, annotator_figures
from reward_model.training.curation.bias import length_bias, position_bias, reply_lengths
from reward_model.training.curation.duplicates import texts
from reward_model.training.curation.overlap import duplicates, equal_after_truncation, leakage, prompt_clusters
from reward_model.training.curation.reading import PairFile, split_names
from reward_model.training.curation.warn import warnings_of

_UNKNOWN = "unknown"
# Edges of the histogram of the winner's length over the loser's.
_RATIOS = (0.0, 0.25, 0.5, 0.67, 0.8, 0.95, 1.05, 1.25, 1.5, 2.0, 4.0, inf)


@dataclass(frozen=True)
class DataLimits:
    """Where a figure becomes a warning."""

    min_agreement: float = 0.7
    min_bucket: int = 50
    max_longer_wins: float = 0.65
    significance: float = 0.01
    similarity: float = 0.8


def check(
    files: Sequence[PairFile],
    limits: DataLimits | None = None,
    one_set: bool = False,
    formatter: Formatter | None = None,
) -> dict[str, Any]:
    """Figures and warnings over the pairs of all files, as one JSON-ready object.

    With a model's `formatter`, pairs whose replies its truncation makes equal are found too.

    Several files are splits of each other, named as `split_names` says. A single one, or several that are
    `one_set`, is split as training does it: by the split that a pair names, else by its group's hash.
    """
    limits = limits or DataLimits()
    pairs = [pair for file in files for pair in file.pairs]
    places = [f"{file.path}:{line}" for file in files for line in file.lines]
    splits = _splits(files, one_set)
    normal = [texts(pair) for pair in pairs]
    alike = prompt_clusters(normal, limits.similarity)
    result: dict[str, Any] = {
        "files": {file.path: {"pairs": len(file.pairs), "digest": digest(file.pairs)} for file in files},
        "limits": asdict(limits),
        "pairs": len(pairs),
        "ties": sum(pair.outcome == "tie" for pair in pairs),
        "groups": len({pair.group for pair in pairs}),
        "schema_errors": [asdict(error) for file in files for error in file.errors],
        "mix": mix(pairs),
        "duplicates": duplicates(pairs, normal, alike, places, limits.similarity),
        "truncation": equal_after_truncation(pairs, places, formatter),
        "leakage": leakage(pairs, normal, alike, splits, places),
        "position": position_bias(pairs),
        "length": {**length_bias(pairs), "ratio_histogram": _ratio_histogram(pairs)},
        "annotators": annotator_figures(pairs),
        "agreement": agreement_by_bucket(pairs),
    }
    buckets = result["mix"]["by_bucket"].items()
    result["rare_buckets"] = {name: bucket["pairs"] for name, bucket in buckets if bucket["pairs"] < limits.min_bucket}
    return {**result, "warnings": warnings_of(result)}


def _splits(files: Sequence[PairFile], one_set: bool) -> list[str]:
    """The split of every pair."""
    if one_set or len(files) < 2:
        return [pair.split or split_of(pair.group) for file in files for pair in file.pairs]
    names = split_names([file.path for file in files])
    return [name for file, name in zip(files, names, strict=True) for _ in file.pairs]


def mix(pairs: Sequence[Pair]) -> dict[str, Any]:
    """What the pairs are made of, overall and by bucket."""
    members: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        members[pair.bucket].append(pair)
    return {
        "label": _counted(pair.label for pair in pairs),
        "source": _counted(pair.source for pair in pairs),
        "locale": _counted(pair.locale for pair in pairs),
        "risk": _counted(pair.risk for pair in pairs),
        "failure_mode": _counted(pair.failure_mode for pair in pairs if pair.failure_mode),
        "dimensions": _dimensions(pairs),
        "chosen_origin": _counted(pair.origin.chosen for pair in pairs),
        "rejected_origin": _counted(pair.origin.rejected for pair in pairs),
        "by_bucket": {name: _bucket(rows) for name, rows in sorted(members.items())},
    }


def _bucket(pairs: Sequence[Pair]) -> dict[str, Any]:
    origins = _counted(origin for pair in pairs for origin in (pair.origin.chosen, pair.origin.rejected))
    return {
        "pairs": len(pairs),
        "ties": sum(pair.outcome == "tie" for pair in pairs),
        "label": _counted(pair.label for pair in pairs),
        "origin": origins,
        "policy_only": origins.keys() <= {"policy", "older_policy"},
    }


def _counted(values: Any) -> dict[str, int]:
    """How often each value occurs, most frequent first; None is unknown."""
    return dict(sorted(Counter(value or _UNKNOWN for value in values).items(), key=lambda item: (-item[1], item[0])))


def _dimensions(pairs: Sequence[Pair]) -> dict[str, Any]:
    """By dimension: pairs that carry it, and for how many the chosen reply, neither, or the rejected one is better."""
    signs: dict[str, list[int]] = defaultdict(list)
    for pair in pairs:
        for name, sign in pair.dimensions.items():
            signs[name].append(sign)
    return {
        name: {"pairs": len(found), "chosen": found.count(1), "equal": found.count(0), "rejected": found.count(-1)}
        for name, found in sorted(signs.items())
    }


def _ratio_histogram(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Decided pairs by the winner's length over the loser's."""
    lengths = [reply_lengths(pair) for pair in pairs if pair.outcome == "win"]
    ratios = [(won + 1) / (lost + 1) for won, lost in lengths]
    return [
        {"from": low, "to": high if isfinite(high) else None, "pairs": sum(low <= ratio < high for ratio in ratios)}
        for low, high in pairwise(_RATIOS)
    ]
