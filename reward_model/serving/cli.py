"""`winnow scorer` and `winnow score`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from reward_model.errors import RewardModelError

scorer_app = typer.Typer(add_completion=False)
score_app = typer.Typer(add_completion=False)


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
    import uvicorn
    from pydantic import ValidationError

    from reward_model.serving.app import create_app
    from reward_model.serving.engine import load_configured
    from reward_model.serving.settings import ScorerSettings

    given: dict[str, Any] = {"model": model, "host": host, "port": port, "registry": registry}
    given |= {"device": device, "dtype": dtype, "threads": threads}
    try:
        settings = ScorerSettings(**{name: value for name, value in given.items() if value is not None})
        print(f"Loading {settings.model}", file=sys.stderr, flush=True)
        app = create_app(load_configured(settings), settings)
    except ValidationError as error:
        first = error.errors()[0]
        _stop(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    except RewardModelError as error:
        _stop(str(error))
    uvicorn.run(app, host=settings.host, port=settings.port, access_log=False)


@score_app.command()
def score(
    file: Annotated[str, typer.Argument(help="JSONL of prompt and completions; may end in .gz, or be -.")],
    model: Annotated[str, typer.Option(help="Reward model to load.")] = "champion",
    url: Annotated[str | None, typer.Option(help="Ask this scorer instead of loading a model.")] = None,
    dtype: Annotated[Literal["bf16", "fp32"], typer.Option(help="Precision of a loaded model.")] = "bf16",
    out: Annotated[str, typer.Option(help="Where to write; - is the standard output.")] = "-",
) -> None:
    """Add scores and probabilities to each line of a file."""
    from reward_model.jsonl import open_text
    from reward_model.serving.offline import local_scores, remote_scores

    try:
        with open_text(out, "w") as stream:
            scored = remote_scores(file, url) if url else local_scores(file, model, dtype)
            for line in scored:
                _write(stream, line)
    except RewardModelError as error:
        _stop(str(error))


def _write(stream: Any, line: dict[str, Any]) -> None:
    stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def _stop(message: str) -> NoReturn:
    print(f"winnow: {message}", file=sys.stderr)
    raise typer.Exit(2)
