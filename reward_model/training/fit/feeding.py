"""What the training loop is fed with: rows that are laid out when they are due, and what is known of their pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from reward_model.labels import Pair
from reward_model.model.reward_model import RewardModel
from reward_model.training.fit.losses import Targets
from reward_model.training.fit.packing import PackedRow, collate, collate_apart, pack
from reward_model.training.fit.token_table import TokenTable


class RowPlan(NamedTuple):
    """Which pairs make a row, the one with the longest prompt first, and how many tokens it has."""

    pairs: tuple[int, ...]
    tokens: int


def plan_rows(table: TokenTable, groups: Sequence[str], max_tokens: int, shared: bool) -> list[RowPlan]:
    """As `pack`, a group at a time, without keeping the tokens; a pair for each row if prompts are not `shared`."""
    members: dict[str, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        members[group].append(number)
    plans: list[RowPlan] = []
    for group, numbers in members.items():
        tokens = [table[number] for number in numbers]
        # Each pair by itself is a group of its own.
        names = [group] * len(tokens) if shared else [str(number) for number in numbers]
        for row in pack(tokens, names, max_tokens):
            plans.append(RowPlan(tuple(pair.pair for pair in row.pairs), row.tokens))
    return plans


class TrainingRows(Dataset[PackedRow]):
    """The planned rows, read from the table when they are asked for."""

    def __init__(self, table: TokenTable, plans: Sequence[RowPlan]) -> None:
        self.table = table
        self.plans = plans

    def __len__(self) -> int:
        return len(self.plans)

    def __getitem__(self, index: int) -> PackedRow:
        pairs = [self.table[number] for number in self.plans[index].pairs]
        row = PackedRow(pairs[0].prompt)
        for pair in pairs:
            row.add(pair)
        return row


class ByLength(Sampler[int]):
    """Rows of similar length beside each other, in another order each epoch: a function of seed and epoch alone,
    so that a run that goes on after a kill sees what it would have seen."""

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths = list(lengths)
        self.batch = batch
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000 + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch, generator=generator))  # type: ignore[no-untyped-call]


class Collate:
    """Rows to the model's inputs, with what is known of their pairs."""

    def __init__(self, model: RewardModel, pad: int, shared: bool, pairs: Sequence[Pair], targets: Targets) -> None:
        self.pad = pad
        self.shared = shared
        self.targets = targets
        self.dtype: Any = model.backbone.dtype
        self.locales: Tensor | None = None
        if model.locales:
            self.locales = torch.tensor([model.locale_number(pair.locale) for pair in pairs])

    def __call__(self, rows: list[PackedRow]) -> dict[str, Any]:
        batch = collate(rows, self.pad, self.dtype) if self.shared else collate_apart(rows, self.pad)
        inputs: dict[str, Any] = batch._asdict()
        chosen = torch.tensor([pair.pair for row in rows for pair in row.pairs])
        if self.locales is not None:
            inputs["locales"] = self.locales[chosen].unsqueeze(1).repeat(1, 2)
        return inputs | {"targets": {name: known[chosen] for name, known in self.targets._asdict().items()}}


def targets_of(pairs: Sequence[Pair], lengths: ArrayLike) -> Targets:
    """What the loss may know of each pair, in their order; `lengths` [pairs, 2] in tokens."""
    none = float("nan")
    ratings = [[rating or none for rating in (pair.ratings.chosen, pair.ratings.rejected)] for pair in pairs]
    verdicts = [(pair.acceptable.chosen, pair.acceptable.rejected) for pair in pairs]
    acceptable = [[none if verdict is None else float(verdict) for verdict in both] for both in verdicts]
    return Targets(
        margin=torch.tensor([pair.margin or 0.0 for pair in pairs]),
        strength=torch.tensor([pair.strength or 1.0 for pair in pairs]),
        tie=torch.tensor([pair.outcome == "tie" for pair in pairs], dtype=torch.bool),
        lengths=torch.as_tensor(lengths, dtype=torch.float32).reshape(-1, 2),
        ratings=torch.tensor(ratings, dtype=torch.float32).reshape(-1, 2),
        acceptable=torch.tensor(acceptable, dtype=torch.float32).reshape(-1, 2),
    )
