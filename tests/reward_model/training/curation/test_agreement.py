from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import fisher_exact
from sklearn.metrics import cohen_kappa_score

from reward_model.labels import Pair
from reward_model.training.curation.agreement import agreement_by_bucket, annotator_figures, fleiss_kappa, majority

MakePair = Callable[..., Pair]


def _votes(**votes: str) -> list[dict[str, Any]]:
    return [{"id": name, "vote": vote} for name, vote in votes.items()]


def test_a_majority_leads_alone() -> None:
    assert majority(["chosen", "tie", "chosen"]) == "chosen"
    assert majority(["chosen", "rejected"]) is None
    assert majority([]) is None


def test_fleiss_kappa_of_his_own_example() -> None:
    # Ten subjects, 14 raters, five categories (Fleiss, 1971, as in Wikipedia's worked example): 0.210.
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    assert fleiss_kappa(np.array(table)) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa(np.array([[2, 0, 0], [3, 0, 0]])) is None


def test_kappa_does_not_hang_on_the_winner_s_name(pair: MakePair) -> None:
    """Counted as chosen and rejected, two good annotators would seem to agree by chance."""
    generator = np.random.default_rng(1)
    pairs, a, b = [], [], []
    for i in range(400):
        agree = generator.random() < 0.9
        one = pair(
            f"p{i}",
            f"reply {i} yes",
            f"answer {i} no",
            annotators=_votes(a="chosen", b="chosen" if agree else "rejected"),
        )
        pairs.append(one)
        side = int(generator.random() < 0.5)
        a.append(side)
        b.append(side if agree else 1 - side)
    found = agreement_by_bucket(pairs)["all"]
    share = np.mean(np.array(a) == np.array(b))
    assert found["agreement"] == pytest.approx(share, abs=1e-4)
    # With the sides drawn by coin, Cohen's kappa is nearly the same.
    assert found["kappa"] == pytest.approx(cohen_kappa_score(a, b), abs=0.02)


def test_agreement_is_over_every_two_annotators(pair: MakePair) -> None:
    pairs = [
        pair("a", bucket="billing", annotators=_votes(x="chosen", y="chosen", z="tie")),  # 1 of 3
        pair("b", bucket="billing", annotators=_votes(x="tie", y="tie")),  # 1 of 1
        pair("c", bucket="fraud", annotators=_votes(x="chosen", y="rejected")),  # 0 of 1
        pair("d", bucket="fraud", annotators=_votes(x="chosen")),  # nobody to compare with
    ]
    found = agreement_by_bucket(pairs)
    assert list(found) == ["all", "billing", "fraud"]
    assert (found["all"]["comparisons"], found["all"]["agreement"]) == (5, 0.4)
    assert (found["billing"]["pairs"], found["billing"]["agreement"]) == (2, 0.5)
    assert (found["fraud"]["pairs"], found["fraud"]["agreement"]) == (1, 0.0)
    assert agreement_by_bucket([pair("d")]) == {}


def test_an_annotator_is_set_against_the_others_not_himself(pair: MakePair) -> None:
    pairs = [
        pair("a", shown_first="chosen", annotators=_votes(x="chosen", y="chosen", z="rejected")),
        pair("b", outcome="tie", annotators=_votes(x="tie", y="chosen")),
        pair("c", shown_first="chosen", annotators=_votes(x="rejected")),
    ]
    found = annotator_figures(pairs)
    assert list(found) == ["x", "y", "z"]
    # Outcome: a yes, b yes, c no. Others: in a one for each side, so nobody leads; b no.
    assert (found["x"]["votes"], found["x"]["with_outcome"]["share"]) == (3, 0.6667)
    assert (found["x"]["with_majority"]["of"], found["x"]["with_majority"]["share"]) == (1, 0.0)
    assert (found["x"]["first_picked"]["of"], found["x"]["first_picked"]["share"]) == (2, 0.5)
    assert (found["z"]["with_majority"]["of"], found["z"]["with_majority"]["share"]) == (1, 0.0)
    assert found["x"]["drift"] is None


def test_drift_compares_the_first_half_of_the_votes_with_the_second(pair: MakePair) -> None:
    pairs = []
    for day in range(20):
        vote = "chosen" if day < 10 else "rejected"
        at = f"2026-01-{day + 1:02}T12:00:00" + ("Z" if day % 2 else "")
        pairs.append(pair(str(day), annotators=[{"id": "x", "vote": vote, "at": at}]))
    figures = annotator_figures(pairs[::-1])["x"]
    assert (figures["drift"]["first_half"], figures["drift"]["second_half"]) == (1.0, 0.0)
    assert figures["drift"]["p_value"] == pytest.approx(fisher_exact([[10, 0], [0, 10]]).pvalue)
    # 1 January 2026 is a Thursday.
    assert figures["by_week"] == {
        "2026-W01": {"votes": 4, "agreement": 1.0},
        "2026-W02": {"votes": 7, "agreement": 0.8571},
        "2026-W03": {"votes": 7, "agreement": 0.0},
        "2026-W04": {"votes": 2, "agreement": 0.0},
    }
