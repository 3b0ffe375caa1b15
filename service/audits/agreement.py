"""Figures of an audit: every share weighted by the rows' sampling weights, with its interval and baseline. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from math import log1p
from typing import Any

import numpy as np

from reward_model.estimates import Share, at_equal_length, brier, expected_calibration_error, weighted_share
from service.audits.judging import Judged
from service.store.rows import Row

ALARM = 0.65
# A labelled item: all labels of one pair of replies.
Item = list[Judged]


def items_of(judged: Sequence[Judged]) -> list[Item]:
    """Labels by item; items without any are left out, but for those that need none."""
    by_item: dict[str, Item] = defaultdict(list)
    for one in judged:
        if one.preferred is not None:
            by_item[one.item["id"]].append(one)
    return list(by_item.values())


def agreement(items: Sequence[Item], chooses: Callable[[Row], float] | None = None) -> Share:
    """How often people prefer the candidate that the reward model scores higher, of those where they prefer one.

    Two annotators of one item count half each; ties of people count for nothing, equal scores half. `chooses` is
    another chooser than the scores: above 0 for the winner, below for the other.
    """
    chooses = chooses or _by_score
    values, weights = [], []
    for item in items:
        row = item[0].item
        choices = [one.preferred for one in item if one.preferred != "tie"]
        if row["greedy"] is not None or not choices:
            continue
        sign = np.sign(chooses(row))
        values.append(float(np.mean([0.5 if sign == 0 else (who == "winner") == (sign > 0) for who in choices])))
        weights.append(row["weight"])
    return weighted_share(np.array(values), np.array(weights))


def win_rate(items: Sequence[Item]) -> Share:
    """How often people prefer the reranked answer to the greedy one; a tie is half, the same text a tie."""
    rows = [item for item in items if item[0].item["greedy"] is not None]
    return weighted_share(np.array([_won(item) for item in rows]), _weights(rows))


def win_rate_at_equal_length(items: Sequence[Item]) -> float | None:
    """The win-rate that is left when both are equally long (Dubois et al., 2024, adapted to pairs)."""
    rows = [item for item in items if item[0].item["greedy"] is not None]
    gaps = np.array([_length_gap(item[0].item) for item in rows])
    return at_equal_length(np.ones(len(rows)), gaps, np.array([_won(item) for item in rows]), _weights(rows))


def acceptable(items: Sequence[Item]) -> Share:
    """How often people would send the winner."""
    outcomes, weights, _ = _outcomes(items)
    return weighted_share(outcomes, weights)


def calibration(items: Sequence[Item]) -> Row:
    """How far the winners' probabilities are from what people say; `brier_of_base_rate` is that of a constant."""
    outcomes, weights, probabilities = _outcomes([i for i in items if i[0].item["response.probability"] is not None])
    used = {known["id"]: known for i in items if (known := i[0].item["response.calibrator"])}
    calibrators = [{name: used[which].get(name) for name in ("id", "event", "labels")} for which in sorted(used)]
    return {"calibrators": calibrators, **calibration_figures(probabilities, outcomes, weights)}


def calibration_figures(probabilities: Any, outcomes: Any, weights: Any) -> Row:
    """Share, mean probability, ECE and Brier of P(acceptable) on labelled winners."""
    share = weighted_share(outcomes, weights)
    if share.value is None:
        return {"event": "acceptable", "labels": 0}
    mean = float(np.average(probabilities, weights=weights))
    return {
        "event": "acceptable",
        "labels": len(outcomes),
        "acceptable": share.value,
        "acceptable_ci": share.ci,
        "mean_probability": round(mean, 4),
        "ece": round(expected_calibration_error(probabilities, outcomes, weights=weights), 4),
        "brier": round(brier(probabilities, outcomes, weights), 4),
        "brier_of_base_rate": round(share.value * (1 - share.value), 4),
    }


def from_verdicts(verdicts: Sequence[Row], counts: Row) -> Row:
    """The same from review verdicts, each weighted by the inverse of its chance to be seen, and naively beside it.

    Answers that nobody could ever see are in neither: where `never_seen` is not 0 the figures speak of the others.
    """
    known = [row for row in verdicts if row["probability"] is not None and row["acceptable"] is not None]
    outcomes = np.array([float(row["acceptable"]) for row in known])
    probabilities = np.array([row["probability"] for row in known])
    weights = np.array([1 / row["chance"] for row in known])
    return {
        **counts,
        "weighted": calibration_figures(probabilities, outcomes, weights),
        "naive": calibration_figures(probabilities, outcomes, np.ones(len(known))),
    }


def between_annotators(items: Sequence[Item]) -> Row:
    """Cohen's kappa (1960) of winner, other, tie on items that two have labelled; None where it is undefined."""
    from sklearn.metrics import cohen_kappa_score

    pairs = [(item[0].preferred, item[1].preferred) for item in items if len(item) > 1]
    same = weighted_share(np.array([float(first == second) for first, second in pairs]))
    varied = len({label for pair in pairs for label in pair}) > 1
    kappa = float(cohen_kappa_score(*zip(*pairs, strict=True))) if varied else None
    return {
        "items": len(pairs),
        "same": same.value,
        "same_ci": same.ci,
        "kappa": None if kappa is None else round(kappa, 4),
    }


def by_annotator(items: Sequence[Item]) -> dict[str, Row]:
    """Labels of each, how many are ties, how often the left side is picked (a half without bias), and how often they
    agree with the other annotator of an item."""
    labels: dict[str, list[str]] = defaultdict(list)
    same: dict[str, list[bool]] = defaultdict(list)
    for item in items:
        for one in item:
            if one.label is not None:
                labels[one.label["annotator"]].append(one.label["choice"])
                others = [other.preferred for other in item if other is not one]
                same[one.label["annotator"]] += [other == one.preferred for other in others]
    return {name: _one_annotator(choices, same[name]) for name, choices in sorted(labels.items())}


def drift(now: Row, before: Row) -> float | None:
    """p-value of Fisher's exact test that an annotator agrees with the others as often as before; None without both."""
    from scipy.stats import fisher_exact

    tables = [(row["compared"], row["compared"] - row["same"]) for row in (now, before)]
    if not all(compared for compared, _ in tables):
        return None
    return float(fisher_exact([[compared - other, other] for compared, other in tables]).pvalue)


def figures(judged: Sequence[Judged]) -> Row:
    """Everything that one audit says, overall and by route."""
    items = items_of(judged)
    routes = sorted({item[0].item["response.route"] for item in items})
    by_route = {name: [item for item in items if item[0].item["response.route"] == name] for name in routes}
    return {
        "items": len({one.item["id"] for one in judged}),
        "labelled": len(items),
        "labels": sum(one.label is not None for one in judged),
        **_main(items),
        "by_route": {name: {"labelled": len(members), **_main(members)} for name, members in by_route.items()},
        "calibration": calibration(items),
        "between_annotators": between_annotators(items),
        "annotators": by_annotator(items),
    }


def _main(items: Sequence[Item]) -> Row:
    ties = [item for item in items if item[0].item["greedy"] is None and all(one.preferred == "tie" for one in item)]
    rate = win_rate(items)
    return {
        "agreement": agreement(items)._asdict(),
        "longer_wins": agreement(items, _length_gap)._asdict(),
        "ties": len(ties),
        "win_rate_over_greedy": rate._asdict(),
        "win_rate_at_equal_length": win_rate_at_equal_length(items),
        "acceptable": acceptable(items)._asdict(),
    }


def _one_annotator(choices: list[str], same: list[bool]) -> Row:
    counts, sides = Counter(choices), sum(choice != "tie" for choice in choices)
    left = weighted_share(np.array([float(choice == "left") for choice in choices if choice != "tie"]))
    return {
        "labels": len(choices),
        "ties": counts["tie"],
        "left_picked": left.value,
        "left_picked_ci": left.ci if sides else None,
        "compared": len(same),
        "same": sum(same),
    }


def _outcomes(items: Sequence[Item]) -> tuple[Any, Any, Any]:
    """Of winners whose acceptability somebody judged: the share who would send it, weight, probability."""
    points = []
    for item in items:
        answers = [one.acceptable("winner") for one in item]
        if known := [float(value) for value in answers if value is not None]:
            row = item[0].item
            points.append((float(np.mean(known)), row["weight"], row["response.probability"] or 0.0))
    columns = np.array(points).reshape(-1, 3).T
    return columns[0], columns[1], columns[2]


def _won(item: Item) -> float:
    return float(np.mean([{"winner": 1.0, "tie": 0.5, "other": 0.0}[one.preferred or "tie"] for one in item]))


def _weights(items: Sequence[Item]) -> Any:
    return np.array([item[0].item["weight"] for item in items])


def _by_score(row: Row) -> float:
    return float(row["response.score"] - row["other_score"])


def _length_gap(row: Row) -> float:
    """Log length of the winner less that of the other, in characters."""
    return log1p(len(row["winner_reply"]["content"] or "")) - log1p(len(row["other_reply"]["content"] or ""))
