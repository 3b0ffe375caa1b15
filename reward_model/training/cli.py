"""`winnow train`, `evaluate`, `calibrate` and `data`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from reward_model.errors import BadInput, RewardModelError

train_app = typer.Typer(add_completion=False)
evaluate_app = typer.Typer(add_completion=False)
calibrate_app = typer.Typer(add_completion=False)
data_app = typer.Typer(add_completion=False, help="Prepare preference data.")


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


@evaluate_app.command()
def evaluate(
    pairs: Annotated[str, typer.Argument(help="JSONL of pairs; may end in .gz, or be - for stdin.")],
    model: Annotated[str, typer.Option(help="Name, name@version, alias, folder or hub id.")] = "winnow-orm",
    registry: Annotated[
        Path | None,
        typer.Option(envvar="WINNOW_REGISTRY", help="Folder of checkpoints beside the bundled one."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read at most this many pairs.")] = None,
) -> None:
    """Measure a reward model on pairs: accuracy with its interval, beside the longer reply's."""
    from reward_model.training.data import Pair, read_rows

    with clear_errors():
        rows = list(islice(read_rows(pairs, Pair), limit))
        if not rows:
            raise BadInput(f"{pairs} has no pairs")
        from reward_model.loading import load_model
        from reward_model.training import evaluate as evaluation

        report = evaluation.evaluate(load_model(model, registry), rows)
    print(json.dumps(report, ensure_ascii=False))


@calibrate_app.command()
def calibrate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint; calibration.json goes there.")],
    labels: Annotated[str, typer.Argument(help="JSONL of labelled replies; may end in .gz, or be -.")],
) -> None:
    """Fit the probability that a reviewer would send a reply, on the replies of the calibration split.

    Replies that name no split count as calibration ones; those of the train and test splits are left out.
    """
    from reward_model.training.data import LabelledReply, read_rows

    with clear_errors():
        replies = [r for r in read_rows(labels, LabelledReply) if r.split in (None, "calibration")]
        if not replies:
            raise BadInput(f"{labels} has no replies of the calibration split")
        from reward_model.calibration import save_calibration
        from reward_model.checkpoint import load_checkpoint
        from reward_model.training import calibrate as calibration

        fitted = calibration.calibrate(load_checkpoint(checkpoint), replies)
        save_calibration(checkpoint, fitted)
    print(fitted.model_dump_json())


@data_app.callback()
def data_commands() -> None:
    """Prepare preference data."""


@data_app.command()
def split(
    data: Annotated[Path, typer.Option(help="Folder with preferences/*.jsonl.gz.")],
    out: Annotated[Path, typer.Option(help="Folder to write train/, validation/ and test/ to.")],
) -> None:
    """Split pairs by group into train, validation and test, as `winnow train` does."""
    from reward_model.training.split import split_folder

    with clear_errors():
        report = split_folder(data, out)
    print(json.dumps(report))
