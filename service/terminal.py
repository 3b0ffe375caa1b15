"""What the gateway's commands share: common options, and errors printed as one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from service.errors import WinnowError

ConfigOption = Annotated[Path | None, typer.Option(help="TOML file of settings; else WINNOW_CONFIG.")]


@contextmanager
def clear_errors() -> Iterator[None]:
    """Say what was wrong on stderr and exit with 2; anything else is a bug and shows its traceback."""
    try:
        yield
    except WinnowError as error:
        print(f"winnow: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
