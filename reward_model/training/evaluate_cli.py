"""`winnow evaluate`."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from reward_model.errors import BadInput
from reward_model.training.console import clear_errors

evaluate_app = typer.Typer(add_completion=False)


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
