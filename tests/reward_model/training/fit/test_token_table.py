"""Tokens in a file, and rows that are read from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reward_model.labels import Pair
from reward_model.text.formatting import Formatter
from reward_model.training.fit.feeding import TrainingRows, plan_rows
from reward_model.training.fit.packing import one_pair_each, pack, tokenize
from reward_model.training.fit.token_table import token_table


def _pairs() -> list[Pair]:
    """Three dialogues of four turns, in another order than their groups."""
    rows = []
    for turn in range(4):
        for dialogue in range(3):
            prompt = [
                {"role": role, "content": f"bill {dialogue} {i}"}
                for i in range(turn + 1)
                for role in ("user", "assistant")[: 1 if i == turn else 2]
            ]
            rows.append(
                {"id": f"{dialogue}.{turn}", "group": f"g{dialogue}", "prompt": prompt}
                | {"chosen": f"refund {turn}", "rejected": "no"}
            )
    return [Pair.model_validate(row) for row in rows]


def test_the_file_holds_what_the_formatter_makes(formatter: Formatter, tmp_path: Path) -> None:
    pairs = _pairs()
    table = token_table(pairs, formatter, tmp_path)
    assert list(table) == tokenize(pairs, formatter)
    assert table.lengths().tolist() == [[len(t.chosen), len(t.rejected)] for t in tokenize(pairs, formatter)]
    assert table[1:3] == tokenize(pairs, formatter)[1:3]


def test_it_is_written_once_and_mapped_not_read(formatter: Formatter, tmp_path: Path) -> None:
    pairs = _pairs()
    first = token_table(pairs, formatter, tmp_path)
    written = first.path.stat().st_mtime_ns
    again = token_table(pairs, formatter, tmp_path)
    assert (again.path, again.path.stat().st_mtime_ns) == (first.path, written)
    assert str(again.path) in Path("/proc/self/maps").read_text()
    changed = [pairs[0].model_copy(update={"chosen": "another"}), *pairs[1:]]
    assert token_table(changed, formatter, tmp_path).path != first.path


@pytest.mark.parametrize("shared", [True, False])
def test_rows_are_those_of_the_packing(formatter: Formatter, tmp_path: Path, shared: bool) -> None:
    pairs = _pairs()
    groups = [pair.group for pair in pairs]
    rows = pack(tokenize(pairs, formatter), groups, 120)
    expected = rows if shared else one_pair_each(rows)
    table = token_table(pairs, formatter, tmp_path)
    found = TrainingRows(table, plan_rows(table, groups, 120, shared))
    assert len(found) == len(expected)
    assert [plan.tokens for plan in found.plans] == [found[i].tokens for i in range(len(found))]

    def shape(row: object) -> tuple[object, ...]:
        return row.prompt, row.pairs, row.replies, row.tokens  # type: ignore[attr-defined]

    by_pair = {row.pairs[0].pair: shape(row) for row in expected}
    assert {found[i].pairs[0].pair: shape(found[i]) for i in range(len(found))} == by_pair
