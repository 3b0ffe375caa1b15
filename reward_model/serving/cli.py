"""`winnow scorer`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from reward_model.errors import RewardModelError

if TYPE_CHECKING:
    from reward_model.checkpoint.loaded_model import LoadedModel
    from reward_model.serving.settings import ScorerSettings

_DRAIN_SECONDS = 20

scorer_app = typer.Typer(add_completion=False)


@scorer_app.command()
def scorer(
    model: Annotated[str | None, typer.Option(help="A name, name@version, alias, folder, or hub id.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    registry: Annotated[Path | None, typer.Option(help="Folder of checkpoints beside the bundled ones.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, bf16 or fp32.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a forward pass.")] = None,
) -> None:
    """Serve a reward model over HTTP; every option is also a WINNOW_SCORER_* variable."""
    sleep_while_waiting()
    import uvicorn
    from pydantic import ValidationError

    from reward_model.serving.app import create_app
    from reward_model.serving.settings import ScorerSettings

    given: dict[str, Any] = {"model": model, "host": host, "port": port, "registry": registry}
    given |= {"device": device, "dtype": dtype, "threads": threads}
    try:
        settings = ScorerSettings(**{name: value for name, value in given.items() if value is not None})
        app = create_app(load(settings), settings)
    except (ValidationError, RewardModelError) as error:
        stop(error)
    # Bounded, so that a client which never finishes its request cannot keep a stopped scorer alive.
    uvicorn.run(app, host=settings.host, port=settings.port, access_log=False, timeout_graceful_shutdown=_DRAIN_SECONDS)


def sleep_while_waiting() -> None:
    """Let threads of a forward pass sleep while they wait for one another, unless the environment says otherwise.

    By default they spin. Where another process, such as the policy, takes a core from one of them, the others burn
    theirs until it comes back, at every operation: a pass took ten times as long. OpenMP reads this once, when torch is
    imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def load(settings: ScorerSettings) -> LoadedModel:
    """Load the model that the settings name, saying so."""
    from reward_model.serving.engine import load_configured
    from reward_model.serving.memory import keep_freed_memory

    keep_freed_memory()
    began = time.monotonic()
    say(f"Loading {settings.model}")
    loaded = load_configured(settings)
    calibrator = loaded.calibration.id if loaded.calibration else "none: probabilities are null"
    precision = str(next(loaded.module.parameters()).dtype).removeprefix("torch.")
    took = time.monotonic() - began
    say(f"Loaded {loaded.id} in {took:.1f} s ({precision} on {loaded.device}; calibrator {calibrator})")
    return loaded


def say(message: str) -> None:
    """One line on stderr."""
    print(message, file=sys.stderr, flush=True)


def stop(error: Exception) -> NoReturn:
    """Say what was wrong in one line, and exit with 2."""
    message = str(error)
    if problems := getattr(error, "errors", None):
        first = problems()[0]
        message = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    say(f"winnow: {message}")
    raise typer.Exit(2)
