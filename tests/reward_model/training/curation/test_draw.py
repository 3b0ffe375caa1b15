from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reward_model.errors import BadInput
from reward_model.labels import Pair
from reward_model.training.curation.build_recipe import BuildRecipe
from reward_model.training.curation.draw import allocate, draw
from reward_model.training.curation.screen import ScreenedPair, candidate

Row = dict[str, Any]
MakeRow = Callable[..., Row]


@pytest.mark.parametrize(
    ("total", "weights", "lower", "upper", "expected"),
    [
        (10, {"a": 3, "b": 1}, {"a": 0, "b": 0}, {"a": 9, "b": 9}, {"a": 8, "b": 2}),  # 7.5 and 2.5; the tie to a
        (10, {"a": 9, "b": 1}, {"a": 0, "b": 4}, {"a": 9, "b": 9}, {"a": 6, "b": 4}),
        (10, {"a": 1, "b": 1, "c": 2}, {"a": 0, "b": 0, "c": 0}, {"a": 1, "b": 9, "c": 9}, {"a": 1, "b": 3, "c": 6}),
        (99, {"a": 1, "b": 1}, {"a": 0, "b": 0}, {"a": 4, "b": 7}, {"a": 4, "b": 7}),
        (0, {}, {}, {}, {}),
    ],
)
def test_allocation_by_hand(
    total: int, weights: dict[str, float], lower: dict[str, int], upper: dict[str, int], expected: dict[str, int]
) -> None:
    assert allocate(total, weights, lower, upper) == expected


# A busy machine is no failure.
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.text(max_size=2), st.tuples(st.integers(0, 30), st.integers(1, 99)), max_size=6),
    st.integers(0, 300),
)
def test_allocation_keeps_its_bounds_and_adds_up(sizes: dict[str, tuple[int, int]], total: int) -> None:
    upper = {name: size for name, (_, size) in sizes.items()}
    lower = {name: min(least, size) for name, (least, size) in sizes.items()}
    total += sum(lower.values())
    found = allocate(total, {name: float(size) for name, size in upper.items()}, lower, upper)
    assert sum(found.values()) == min(total, sum(upper.values()))
    assert all(lower[name] <= pairs <= upper[name] for name, pairs in found.items())


def test_floors_that_pass_the_total_are_refused() -> None:
    with pytest.raises(BadInput, match="ask for 5 pairs, more than the total of 4"):
        allocate(4, {"a": 1}, {"a": 5}, {"a": 9})


def _drawn(rows: list[Row], **recipe: Any) -> tuple[list[ScreenedPair], dict[str, Any]]:
    names = {row.get("source", "s") for row in rows}
    made = BuildRecipe.model_validate({"sources": {name: {} for name in names}, **recipe})
    found = [candidate(row.get("source", "s"), row, Pair.model_validate(row), made) for row in rows]
    report = draw(found, made)
    assert {one.dropped for one in found} <= {None, "not_drawn"}
    return [one for one in found if one.dropped is None], report


def _buckets(found: list[ScreenedPair]) -> Counter[str]:
    return Counter(one.pair.bucket for one in found)


@pytest.fixture
def rows(row: MakeRow) -> list[Row]:
    """90 pairs on billing, 8 on fraud, 2 on refund."""
    sizes = {"billing": 90, "fraud": 8, "refund": 2}
    return [row(f"{bucket}{i}", bucket=bucket) for bucket, size in sizes.items() for i in range(size)]


def test_buckets_are_drawn_in_proportion_with_floors_and_shares(rows: list[Row]) -> None:
    assert _buckets(_drawn(rows, total=50)[0]) == {"billing": 45, "fraud": 4, "refund": 1}
    assert _buckets(_drawn(rows, total=50, floor=6)[0]) == {"billing": 42, "fraud": 6, "refund": 2}
    wanted = {"fraud": {"share": 0.14}, "refund": {"floor": 2}}
    assert _buckets(_drawn(rows, total=50, buckets=wanted)[0]) == {"billing": 41, "fraud": 7, "refund": 2}
    # Only where the others are used up does a bucket pass its share.
    assert _buckets(_drawn(rows, total=95, buckets={"billing": {"share": 0.5}})[0])["billing"] == 85
    assert len(_drawn(rows)[0]) == 100
    assert len(_drawn(rows, total=500)[0]) == 100


def test_a_bucket_that_is_not_there_is_named(rows: list[Row]) -> None:
    with pytest.raises(BadInput, match="no pair is left for the buckets gold"):
        _drawn(rows, total=50, buckets={"gold": {"floor": 1}})


def test_the_draw_hangs_on_the_seed_and_on_names_alone(rows: list[Row]) -> None:
    def drawn(rows: list[Row], seed: int) -> set[str]:
        return {one.pair.id for one in _drawn(rows, total=50, seed=seed)[0]}

    assert drawn(rows, 1) == drawn(rows[::-1], 1) != drawn(rows, 2)


def test_groups_are_drawn_one_after_the_other(row: MakeRow) -> None:
    rows = [row(f"{i}", group=f"g{i % 5}") for i in range(20)]
    groups = Counter(one.pair.group for one in _drawn(rows, total=9)[0])
    assert sorted(groups.values()) == [1, 4, 4]


def test_a_control_s_own_source_is_mixed_at_its_rate(rows: list[Row], row: MakeRow) -> None:
    flattery = [row(f"f{i}", source="flattery", bucket="billing") for i in range(40)]
    control = {"sycophancy": {"rate": 0.2, "sources": ["flattery"]}}
    found, report = _drawn(rows + flattery, total=50, controls=control)
    assert report == {"sycophancy": {"wanted": 10, "found": 40, "drawn": 10}}
    assert len(found) == 50
    assert sum(one.source == "flattery" for one in found) == 10
    assert {one.row["meta"]["control"] for one in found if one.source == "flattery"} == {"sycophancy"}
    # Where the others are few the rate holds, not the total.
    found, _ = _drawn(rows[90:] + flattery, total=50, controls=control)
    assert Counter(one.source for one in found) == {"s": 10, "flattery": 2}


def test_a_control_by_rule_is_the_least_that_is_drawn(row: MakeRow) -> None:
    long = [row(f"l{i}", "x" * 50, "x" * 20) for i in range(80)]
    concise = [row(f"c{i}", "x" * 7, "x" * 10, meta={"kept": 1}) for i in range(15)]
    tied = [row(f"t{i}", "x", "x" * 10, outcome="tie") for i in range(5)]
    rule = {"length": {"rate": 0.4, "max_length_ratio": 0.7}}
    found, report = _drawn(long + concise + tied, total=30, controls=rule)
    assert report == {"length": {"wanted": 12, "found": 15, "drawn": 12}}
    assert sum(one.pair.id[0] == "c" for one in found) >= 12
    assert sum(one.row.get("meta") == {"kept": 1, "control": "length"} for one in found) == 12
    modes = {"sycophancy": {"rate": 0.1, "failure_modes": ["sycophantic"]}}
    _, report = _drawn([*long, row("s", failure_mode="sycophantic")], total=30, controls=modes)
    assert report == {"sycophancy": {"wanted": 3, "found": 1, "drawn": 1}}
