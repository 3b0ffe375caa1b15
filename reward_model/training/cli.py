"""`winnow train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reward_model.errors import BadInput
from reward_model.training.console import clear_errors

train_app = typer.Typer(add_completion=False)


@train_app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="TOML file of the run.")],
    data: Annotated[Path, typer.Option(help="Folder with preferences/*.jsonl.gz.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write; must not exist.")],
    labels: Annotated[
        Path | None, typer.Option(help="JSONL of labelled replies, for a recipe with `authored`.")
    ] = None,
) -> None:
    """Train a reward model: one recipe, one run, one checkpoint."""
    from reward_model.training.recipe import load_recipe

    with clear_errors():
        loaded = load_recipe(recipe)
        if out.exists():
            raise BadInput(f"{out} exists; checkpoints are immutable, so choose another --out")
        from reward_model.training import run

        manifest = run.train(loaded, data, out, labels)
    print(json.dumps({"orm": manifest.id, "path": str(out)}))
