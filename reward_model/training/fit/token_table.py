"""Tokenised pairs in an Arrow file: written once, and mapped into memory by every process of a machine.

As Python lists the tokens of 200,000 pairs take about 18 GB, and every process would hold its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from reward_model.labels import Pair
from reward_model.text.formatting import Formatter
from reward_model.training.fit.packing import TokenPair, tokenize

_COLUMNS = ("prompt", "chosen", "rejected")
# Pairs that are tokenised before they are written: what is in memory at a time.
_AT_A_TIME = 1000


class TokenTable(Sequence[TokenPair]):
    """The pairs of one file, by number; `TokenPair.pair` is the number."""

    def __init__(self, path: Path) -> None:
        from datasets import Dataset

        self.path = path
        self._rows = Dataset.from_file(str(path))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, number: int) -> TokenPair: ...
    @overload
    def __getitem__(self, number: slice) -> list[TokenPair]: ...
    def __getitem__(self, number: int | slice) -> TokenPair | list[TokenPair]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        row = self._rows[number]
        return TokenPair(number, *(row[name] for name in _COLUMNS))

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of (chosen, rejected), [pairs, 2]."""
        import pyarrow.compute as pc

        table = self._rows.data.table
        sides = [pc.list_value_length(table.column(name)).to_numpy() for name in _COLUMNS[1:]]
        return np.stack(sides, axis=1).astype(np.int64)


def token_table(pairs: Sequence[Pair], formatter: Formatter, folder: Path) -> TokenTable:
    """The table of `pairs` in `folder`: made by the first process that asks, found by the others."""
    from filelock import FileLock

    path = folder / f"tokens-{_digest(pairs, formatter)}.arrow"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            scratch = path.with_suffix(".writing")
            _write(pairs, formatter, scratch)
            scratch.rename(path)
    return TokenTable(path)


def _write(pairs: Sequence[Pair], formatter: Formatter, path: Path) -> None:
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    features = Features({name: List(Value("int32")) for name in _COLUMNS})
    with ArrowWriter(path=str(path), features=features) as writer:
        for begin in range(0, len(pairs), _AT_A_TIME):
            tokens = tokenize(pairs[begin : begin + _AT_A_TIME], formatter)
            writer.write_batch({name: [getattr(pair, name) for pair in tokens] for name in _COLUMNS})
        writer.finalize()


def _digest(pairs: Sequence[Pair], formatter: Formatter) -> str:
    """Of all that the tokens depend on, so that a run that goes on does not find those of other texts."""
    digest = hashlib.sha256(f"{formatter.template_sha256} {formatter.rule.model_dump_json()}".encode())
    for pair in pairs:
        digest.update(pair.model_dump_json(include={"id", "prompt", "chosen", "rejected"}).encode())
    return digest.hexdigest()[:16]
