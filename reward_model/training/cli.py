"""`winnow train` and `winnow ablate`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from reward_model.console import clear_errors
from reward_model.errors import BadInput

train_app = typer.Typer(add_completion=False)
ablate_app = typer.Typer(add_completion=False)


@train_app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="TOML file of the run.")],
    data: Annotated[Path, typer.Option(help="Folder with preferences/*.jsonl.gz.")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint to write; must not exist.")],
    labels: Annotated[
        Path | None, typer.Option(help="JSONL of labelled replies, for a recipe with `authored`.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what memory and time the run would need, and train nothing.")
    ] = False,
) -> None:
    """Train a reward model: one recipe, one run, one checkpoint.

    Pairs whose replies are the same tokens after truncation are left out and counted. A run that was killed goes on
    where it stopped when the same command is given again. On several processes:
    torchrun --nproc_per_node 2 -m service train RECIPE ...
    """
    from reward_model.training.fit.recipe import load_recipe

    with clear_errors():
        loaded = load_recipe(recipe)
        if out.exists():
            raise BadInput(f"{out} exists; checkpoints are immutable, so choose another --out")
        if dry_run:
            from reward_model.training.fit.estimate import estimate

            print(json.dumps(estimate(loaded, data, labels)))
            return
        from reward_model.training.runs import run

        manifest = run.train(loaded, data, out, labels)
    if manifest is not None:
        equal = sum(manifest.data["equal_after_truncation"].values())
        print(json.dumps({"orm": manifest.id, "path": str(out), "equal_after_truncation": equal}))


@ablate_app.command()
def ablate(
    variants: Annotated[Path, typer.Argument(help="TOML file: a recipe, and what each variant changes in it.")],
    data: Annotated[Path, typer.Option(help="Folder with preferences/*.jsonl.gz.")],
    out: Annotated[Path, typer.Option(help="JSONL of results; variants that it holds are not run again.")],
) -> None:
    """Train variants of one recipe and print their accuracy and cost as one table."""
    with clear_errors():
        from reward_model.training.runs import ablation

        lines = []
        for line in ablation.ablate(variants, data, out):
            print(f"{line['variant']}: {line['train_seconds']} s", file=sys.stderr)
            lines.append(line)
    print(ablation.markdown(lines))
