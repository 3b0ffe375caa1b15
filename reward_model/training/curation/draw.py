"""Which of the pairs that may be trained on are drawn: by bucket, with floors, and controls at their rate."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from math import floor
from typing import Any

from reward_model.errors import BadInput
from reward_model.training.curation.bias import reply_lengths
from reward_model.training.curation.build_recipe import Bucket, BuildRecipe, Control
from reward_model.training.curation.screen import ScreenedPair

# A weight so small that others are served first.
_LAST = 1e-9


def draw(candidates: Sequence[ScreenedPair], recipe: BuildRecipe) -> dict[str, Any]:
    """Drop with `not_drawn` what the recipe's total has no room for; returns wanted, found and drawn by control.

    Groups come in an order by the hash of seed and name, so that a set which grows changes as little as it
    can. A pair of a control's source serves as that control, or not at all.
    """
    if recipe.total is None:
        return {}
    pool = sorted((one for one in candidates if one.dropped is None), key=lambda one: _place(one, recipe.seed))
    reserved = {name for control in recipe.controls.values() for name in control.sources}
    open_to_all = [one for one in pool if one.source not in reserved]
    total = _reachable(recipe, len(open_to_all))
    taken, report = _controls(pool, recipe, total)
    rest = [one for one in open_to_all if id(one) not in taken]
    picked = Counter(one.pair.bucket for one in pool if id(one) in taken)
    left = _quotas(recipe, total, Counter(one.pair.bucket for one in rest), picked)
    left.subtract(picked)
    for one in rest:
        if left[one.pair.bucket] > 0:
            left[one.pair.bucket] -= 1
            taken.add(id(one))
    for one in pool:
        if id(one) not in taken:
            one.drop("not_drawn")
    return report


def _place(one: ScreenedPair, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{one.pair.group}".encode("utf-8", "replace")).hexdigest()


def _reachable(recipe: BuildRecipe, others: int) -> int:
    """The total, or what keeps controls with sources of their own at their rate where the others are few."""
    assert recipe.total is not None
    rate = sum(control.rate for control in recipe.controls.values() if control.sources)
    return recipe.total if rate >= 1 else min(recipe.total, floor(others / (1 - rate)))


def _controls(pool: Sequence[ScreenedPair], recipe: BuildRecipe, total: int) -> tuple[set[int], dict[str, Any]]:
    taken: set[int] = set()
    report: dict[str, Any] = {}
    for name, control in recipe.controls.items():
        found = [one for one in pool if id(one) not in taken and _serves(one, control)]
        drawn = found[: round(control.rate * total)]
        for one in drawn:
            taken.add(id(one))
            one.changes["meta"] = {**(one.raw.get("meta") or {}), "control": name}
        report[name] = {"wanted": round(control.rate * total), "found": len(found), "drawn": len(drawn)}
    return taken, report


def _serves(one: ScreenedPair, control: Control) -> bool:
    """Whether a decided pair is one that the control names."""
    if one.pair.outcome == "tie":
        return False
    won, lost = reply_lengths(one.pair)
    concise = control.max_length_ratio is not None and won <= control.max_length_ratio * lost
    return concise or one.source in control.sources or one.pair.failure_mode in control.failure_modes


def _quotas(recipe: BuildRecipe, total: int, rest: Counter[str], picked: Counter[str]) -> Counter[str]:
    """Pairs by bucket, those picked as controls among them."""
    upper = {name: rest[name] + picked[name] for name in sorted(rest.keys() | picked.keys())}
    asked = {name: bucket for name, bucket in recipe.buckets.items() if name in upper}
    if missing := recipe.buckets.keys() - upper.keys():
        raise BadInput(f"no pair is left for the buckets {', '.join(sorted(missing))}, which the recipe names")
    lower, weights = {}, {}
    for name, pairs in upper.items():
        wanted = asked.get(name, Bucket())
        least = recipe.floor if wanted.floor is None else wanted.floor
        lower[name] = max(picked[name], min(pairs, max(least, floor((wanted.share or 0) * total + 1e-9))))
        # A share is met exactly; it is passed only where all the others are used up.
        weights[name] = wanted.share * _LAST if wanted.share else float(pairs)
    return Counter(allocate(total, weights, lower, upper))


def allocate(total: int, weights: dict[str, float], lower: dict[str, int], upper: dict[str, int]) -> dict[str, int]:
    """Whole numbers in proportion to `weights`, within bounds, that add up to `total` or to all there is.

    What a bound takes from one name or gives to it, the others share in proportion. BadInput where the lower
    bounds alone pass the total.
    """
    if sum(lower.values()) > total:
        raise BadInput(f"floors and controls ask for {sum(lower.values())} pairs, more than the total of {total}")
    total = min(total, sum(upper.values()))

    def filled(scale: float) -> dict[str, float]:
        return {name: min(max(scale * weight, lower[name]), upper[name]) for name, weight in weights.items()}

    low, high = 0.0, sum(upper.values()) / min(weights.values(), default=1.0)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(filled(middle).values()) >= total else (middle, high)
    exact = filled(high)
    # Largest remainder; an epsilon keeps 2.9999999 from being 2.
    whole = {name: floor(value + 1e-6) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (whole[name] - exact[name], name))
    for name in [name for name in by_remainder if whole[name] < upper[name]][: total - sum(whole.values())]:
        whole[name] += 1
    return whole
