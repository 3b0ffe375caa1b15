"""`winnow data`: curation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reward_model.training.console import clear_errors

data_app = typer.Typer(add_completion=False, help="Prepare preference data.")


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
