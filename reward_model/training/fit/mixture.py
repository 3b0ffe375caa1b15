"""The training data of a run: the sources of its recipe, split by group, capped and repeated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from reward_model.errors import BadInput
from reward_model.labels import Acceptable, LabelledReply, Pair, Split, by_split, pairs_from_labels, read_rows
from reward_model.training.fit.recipe import Recipe, Source

# A recipe's own section for the pairs of this project's labelled replies.
AUTHORED = "authored"

Sources = dict[str, dict[Split, list[Pair]]]


def read_sources(recipe: Recipe, data: Path, labels: Path | None) -> Sources:
    """Every source of the recipe by split of its groups; the project's own labels bring their splits."""
    sources: Sources = {
        name: by_split(_rows(source, source.path or _path(data, name))) for name, source in recipe.sources.items()
    }
    if recipe.authored is not None:
        if labels is None:
            raise BadInput("the recipe uses authored labels; say where they are with --labels")
        replies = list(read_rows(labels, LabelledReply))
        sources[AUTHORED] = {
            "train": pairs_from_labels((r for r in replies if r.split == "train"), recipe.authored.ties),
            "validation": [],
            "test": pairs_from_labels(r for r in replies if r.split == "test"),
        }
    return sources


def choose(recipe: Recipe, sources: Sources, part: tuple[int, int] = (0, 1)) -> dict[str, list[Pair]]:
    """The training pairs by source: capped, by whole groups drawn by seed, and repeated.

    `part` is a shard's number and how many there are: what one member of an ensemble learns from. Ties are left out
    unless the source says otherwise: plain Bradley-Terry has no place for them.
    """
    wanted: dict[str, Source] = dict(recipe.sources)
    if recipe.authored is not None:
        wanted[AUTHORED] = recipe.authored
    chosen: dict[str, list[Pair]] = {}
    for name, source in wanted.items():
        decided = [pair for pair in sources[name]["train"] if source.ties or pair.outcome == "win"]
        # Sharded before it is repeated: the repeats of a group belong to the member that has the group.
        pairs = shard(cap(decided, source.max_pairs, recipe.optim.seed), *part)
        # A repeat is a group of its own, so that it gets rows of its own.
        chosen[name] = [
            pair.model_copy(update={"group": f"{pair.group}#{turn}"}) for turn in range(source.repeat) for pair in pairs
        ]
    return chosen


def cap(pairs: Sequence[Pair], limit: int | None, seed: int) -> list[Pair]:
    """At most `limit` pairs, whole groups after each other in an order drawn by seed."""
    if limit is None or len(pairs) <= limit:
        return list(pairs)
    groups = sorted({pair.group for pair in pairs})
    Random(seed).shuffle(groups)
    rank = {group: position for position, group in enumerate(groups)}
    return sorted(pairs, key=lambda pair: rank[pair.group])[:limit]


def shard(pairs: Sequence[Pair], number: int, count: int) -> list[Pair]:
    """The pairs of every `count`-th group from `number` on, by name."""
    groups = {group: position for position, group in enumerate(sorted({pair.group for pair in pairs}))}
    return [pair for pair in pairs if groups[pair.group] % count == number]


def _rows(source: Source, path: Path) -> Iterator[Pair]:
    for pair in read_rows(path, Pair):
        silent = pair.outcome == "win" and pair.acceptable == Acceptable()
        winner = {"acceptable": Acceptable(chosen=True, rejected=False)}
        yield pair.model_copy(update=winner) if silent and source.winners_acceptable else pair


def _path(data: Path, name: str) -> Path:
    folder = data / "preferences"
    for path in (folder / f"{name}.jsonl.gz", folder / f"{name}.jsonl"):
        if path.exists():
            return path
    raise BadInput(f"the recipe names the source {name}, but {folder} has no {name}.jsonl.gz")
