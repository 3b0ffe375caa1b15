"""What the trainer's commands share: errors printed as one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from reward_model.errors import RewardModelError


@contextmanager
def clear_errors() -> Iterator[None]:
    """Say what was wrong on stderr and exit with 2; anything else is a bug and shows its traceback."""
    try:
        yield
    except RewardModelError as error:
        print(f"winnow: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
