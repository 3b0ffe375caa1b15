"""An audit's figures against values by hand and scikit-learn's."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import fisher_exact
from sklearn.metrics import cohen_kappa_score

from service.audits.agreement import agreement, drift, figures, from_verdicts, items_of
from service.audits.judging import Judged


def judged(
    number: int,
    choice: str | None,
    *,
    annotator: str = "anna",
    weight: float = 1.0,
    winner_left: bool = True,
    scores: tuple[float, float] = (2.0, 1.0),
    lengths: tuple[int, int] = (10, 10),
    greedy: bool = False,
    route: str = "billing",
    acceptable: bool | None = None,
    probability: float | None = 0.5,
) -> Judged:
    item = {
        "id": f"item-{number}",
        "weight": weight,
        "winner_left": winner_left,
        "labels_wanted": 0 if choice is None else 1,
        "greedy": "g" if greedy else None,
        "response.route": route,
        "response.score": scores[0],
        "response.probability": probability,
        "response.calibrator": {"id": "orm@3/platt", "event": "acceptable", "labels": 211, "method": "platt"},
        "other_score": scores[1],
        "winner_reply": {"content": "w" * lengths[0]},
        "other_reply": {"content": "o" * lengths[1]},
    }
    side = "left" if winner_left else "right"
    label: dict[str, Any] | None = (
        None if choice is None else {"annotator": annotator, "choice": choice, "left_acceptable": None}
    )
    if label is not None:
        label |= {"right_acceptable": None, f"{side}_acceptable": acceptable}
    return Judged(item, label)


def test_agreement_by_hand() -> None:
    rows = [
        judged(1, "left", weight=3.0),
        judged(2, "left", winner_left=False),  # prefers the other
        judged(3, "tie", weight=50.0),
        judged(4, "right", winner_left=False, weight=2.0),
        judged(5, "left", scores=(1.0, 1.0), weight=2.0),  # equal scores: half
        judged(6, "left", scores=(1.0, 2.0), weight=1.0),  # a cut-off candidate had the higher score
        judged(7, "left", greedy=True, weight=9.0),  # no candidate of the model's
    ]
    share = agreement(items_of(rows))
    # (3 x 1 + 1 x 0 + 2 x 1 + 2 x 0.5 + 1 x 0) / 9
    assert (share.value, share.rows) == (round(6 / 9, 4), 5)
    assert share.effective == round(81 / (9 + 1 + 4 + 4 + 1), 1)


def test_two_annotators_of_one_pair_count_half_each() -> None:
    rows = [
        judged(1, "left"),
        judged(1, "right", annotator="bob"),
        judged(2, "left"),
        judged(2, "tie", annotator="bob"),
    ]
    assert agreement(items_of(rows)).value == 0.75


def test_win_rate_over_greedy_and_at_equal_length() -> None:
    # Nine of ten long ones win, one of ten short ones.
    rows = [judged(n, "left" if n % 10 else "right", greedy=True, lengths=(200, 50)) for n in range(40)]
    rows += [judged(40 + n, "right" if n else "left", greedy=True, lengths=(50, 200)) for n in range(10)]
    found = figures(rows)
    assert found["win_rate_over_greedy"]["value"] == 37 / 50
    assert found["win_rate_at_equal_length"] == pytest.approx(0.5, abs=1e-3)
    ties = figures([judged(1, None, greedy=True), judged(2, "left", greedy=True)])
    assert ties["win_rate_over_greedy"]["value"] == 0.75
    assert ties["win_rate_over_greedy"]["rows"] == 2


def test_kappa_is_scikit_learn_s_whatever_side_the_winner_had() -> None:
    first = ["winner", "winner", "other", "tie", "winner", "other"]
    second = ["winner", "other", "other", "tie", "winner", "winner"]
    sides = {
        True: {"winner": "left", "other": "right", "tie": "tie"},
        False: {"winner": "right", "other": "left", "tie": "tie"},
    }
    rows = []
    for number, (anna, bob) in enumerate(zip(first, second, strict=True)):
        left = number % 2 == 0
        rows += [
            judged(number, sides[left][anna], winner_left=left),
            judged(number, sides[left][bob], winner_left=left, annotator="bob"),
        ]
    found = figures(rows)["between_annotators"]
    assert (found["items"], found["same"]) == (6, round(4 / 6, 4))
    assert found["kappa"] == pytest.approx(cohen_kappa_score(first, second), abs=1e-4)
    names = figures(rows)["annotators"]
    assert (names["anna"]["compared"], names["anna"]["same"]) == (6, 4)
    assert figures([judged(1, "left"), judged(1, "left", annotator="bob")])["between_annotators"]["kappa"] is None


def test_a_side_that_is_picked_too_often_shows() -> None:
    found = figures([judged(n, "left", winner_left=n % 2 == 0) for n in range(20)])["annotators"]["anna"]
    assert (found["left_picked"], found["ties"]) == (1.0, 0)
    assert found["left_picked_ci"][0] > 0.5


def test_drift_is_fisher_s() -> None:
    now, before = {"compared": 20, "same": 9}, {"compared": 60, "same": 54}
    assert drift(now, before) == pytest.approx(fisher_exact([[9, 11], [54, 6]]).pvalue)
    assert drift(now, {"compared": 0, "same": 0}) is None


def test_calibration_of_winners_is_weighted_and_names_its_calibrator() -> None:
    rows = [
        judged(1, "tie", acceptable=True, probability=0.8, weight=3.0),
        judged(2, "tie", acceptable=False, probability=0.6, weight=1.0),
        judged(3, "tie", acceptable=None, probability=0.1, weight=9.0),
    ]
    found = figures(rows)
    assert found["acceptable"]["value"] == 0.75
    known = found["calibration"]
    assert known["calibrators"] == [{"id": "orm@3/platt", "event": "acceptable", "labels": 211}]
    assert (known["labels"], known["acceptable"], known["mean_probability"]) == (2, 0.75, 0.75)
    # |0.8 - 1| x 0.75 + |0.6 - 0| x 0.25, and (0.04 x 3 + 0.36) / 4 against 0.75 x 0.25.
    assert (known["ece"], known["brier"], known["brier_of_base_rate"]) == (0.3, 0.12, 0.1875)


def test_by_route() -> None:
    found = figures([judged(1, "left"), judged(2, "right", route="fraud")])
    assert {name: row["agreement"]["value"] for name, row in found["by_route"].items()} == {
        "billing": 1.0,
        "fraud": 0.0,
    }


def test_nothing_labelled_says_nothing() -> None:
    found = figures([Judged(judged(1, "left").item, None)])
    assert (found["items"], found["labelled"], found["agreement"]["value"]) == (1, 0, None)
    assert found["calibration"]["labels"] == 0


def test_verdicts_are_weighted_by_the_inverse_of_their_chance() -> None:
    verdicts: list[dict[str, Any]] = [
        {"chance": 1.0, "probability": 0.4, "acceptable": False},
        {"chance": 1.0, "probability": 0.4, "acceptable": False},
        {"chance": 0.1, "probability": 0.9, "acceptable": True},
    ]
    counts = {"answers": 20, "open": 0, "never_seen": 5}
    found = from_verdicts(verdicts, counts)
    assert found["never_seen"] == 5
    assert found["naive"]["acceptable"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["weighted"]["acceptable"] == pytest.approx(10 / 12, abs=1e-4)
    assert found["weighted"]["ece"] == pytest.approx((2 * 0.4 + 10 * 0.1) / 12, abs=1e-4)
    assert from_verdicts([], counts)["weighted"] == {"event": "acceptable", "labels": 0}
