"""`winnow train`, `evaluate`, `calibrate` and `data`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from reward_model.errors import RewardModelError

train_app = typer.Typer(add_completion=False)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Say what was wrong on stderr and exit with 2; anything else is a bug and shows its traceback."""
    try:
        yield
    except RewardModelError as error:
        print(f"winnow: {error}", file=sys.stderr)
        raise typer.Exit(2) from error


@train_app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="TOML file of the run.")],
    data: Annotated[Path, typer.Option(help="Folder with preferences/*.jsonl.gz.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write; must not exist.")],
    labels: Annotated[
        Path | None, typer.Option(help="JSONL of labelled replies (the recipe's `authored`).")
    ] = None,
) -> None:
    """Train a reward model: one recipe, one run, one checkpoint."""
    from reward_model.training.recipe import load_recipe

    with clear_errors():
        loaded = load_recipe(recipe)
        if out.exists():
            raise RewardModelError(f"{out} exists; checkpoints are immutable, so choose another --out")
        from reward_model.training import run

        manifest = run.train(loaded, data, out, labels)
    print(f"{manifest.id} -> {out}")
