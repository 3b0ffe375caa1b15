"""The bundled router on texts written after the training texts and used for nothing else.

98 texts: insurers, banks and others, half of them in spoken style, with questions near the border. A floor, not a
figure: the figures with their intervals are in docs/explanation/router.md.
"""

from __future__ import annotations

from pathlib import Path

from routing.jsonl import read_jsonl
from routing.router import Router

FRESH = Path(__file__).parent / "data" / "fresh.jsonl"


def test_recall_and_false_positives(router: Router) -> None:
    rows = [row for _, row in read_jsonl(str(FRESH))]
    decisions = router.route_many([row["text"] for row in rows])
    high = [decision.high_stakes for row, decision in zip(rows, decisions, strict=True) if row["route"] != "default"]
    calm = [decision.high_stakes for row, decision in zip(rows, decisions, strict=True) if row["route"] == "default"]
    assert sum(high) / len(high) >= 0.85
    assert sum(calm) / len(calm) <= 0.12
