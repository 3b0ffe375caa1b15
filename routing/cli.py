"""`winnow route` and `winnow route-train`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from routing.errors import BadRoutingInput, RoutingError
from routing.jsonl import read_jsonl

route_app = typer.Typer(add_completion=False)
route_train_app = typer.Typer(add_completion=False)

CHUNK = 256


@contextmanager
def clear_errors() -> Iterator[None]:
    """Say what was wrong on stderr and exit with 2; anything else is a bug and shows its traceback."""
    try:
        yield
    except RoutingError as error:
        print(f"winnow: {error}", file=sys.stderr)
        raise typer.Exit(2) from error


@route_app.command()
def route(
    file: Annotated[str, typer.Argument(help="JSONL of {text} or {messages}; may end in .gz, or be - for stdin.")],
    model: Annotated[Path | None, typer.Option(help="Folder of a trained router; none: the bundled one.")] = None,
) -> None:
    """Say which route each line takes: the line, plus route, high_stakes and probability."""
    from routing.router import Router

    with clear_errors():
        router = Router.load(model)
        rows = ((row, _conversation(file, number, row)) for number, row in read_jsonl(file))
        while chunk := list(islice(rows, CHUNK)):
            for (row, _), decision in zip(chunk, router.route_many([text for _, text in chunk]), strict=True):
                added = {
                    "route": decision.route,
                    "high_stakes": decision.high_stakes,
                    "probability": round(decision.probability, 6),
                }
                print(json.dumps({**row, **added}, ensure_ascii=False))


def _conversation(file: str, number: int, row: dict[str, Any]) -> str | list[Any]:
    """The text or the messages of a line; raises BadRoutingInput naming the line."""
    text, messages = row.get("text"), row.get("messages")
    if isinstance(text, str) and messages is None:
        return text
    if isinstance(messages, list) and text is None:
        return messages
    raise BadRoutingInput(f"{file}, line {number}: expected either a `text` (string) or `messages` (array)")


@route_train_app.command()
def route_train(
    data: Annotated[Path, typer.Option(help="Folder with *.jsonl.gz of {text, route, source}.")],
    encoder: Annotated[Path, typer.Option(help="Folder of all-MiniLM-L6-v2 (safetensors, vocab.txt).")],
    out: Annotated[Path | None, typer.Option(help="Folder to write the router to.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Measure other ways; write no router.")] = False,
    hold_out_phrasing: Annotated[
        bool, typer.Option("--hold-out-phrasing", help="Train without insurers and spoken style, and measure there.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    sources: Annotated[str, typer.Option(help="Note on sources and licences for the manifest.")] = "",
) -> None:
    """Train the router, or with --compare measure what it is compared with; figures as JSON."""
    if (out is None) != compare:
        raise typer.BadParameter("give either --out FOLDER or --compare")
    with clear_errors():
        from routing.train import run
        from routing.train.distil import DistilRecipe

        if out is None:
            report: Any = run.compare(data, encoder, hold_out_phrasing)
        else:
            recipe = DistilRecipe(epochs=epochs, seed=seed)
            report = run.train(data, encoder, out, recipe, hold_out_phrasing, sources).model_dump()
    print(json.dumps(report))
