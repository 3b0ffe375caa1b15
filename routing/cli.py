"""`winnow route` and `winnow route-train`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from routing.errors import BadRoutingInput, RoutingError
from routing.jsonl import read_jsonl

route_app = typer.Typer(add_completion=False)
route_train_app = typer.Typer(add_completion=False)


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
    model: Annotated[
        Path | None, typer.Option(help="Folder of a trained router; else the settings', else the bundled.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings; else WINNOW_CONFIG.")] = None,
) -> None:
    """Say which route each line takes, as the gateway would: the line, plus route, high_stakes and probability.

    A rule that decided and a text that was not read to its end are told too.
    """
    from routing.config import load_router_settings
    from routing.router import Router

    with clear_errors():
        router = Router.load(model, load_router_settings(config))
        for number, row in read_jsonl(file):
            decision = router.route(_conversation(file, number, row))
            added: dict[str, Any] = {
                "route": decision.route,
                "high_stakes": decision.high_stakes,
                "probability": round(decision.probability, 6),
            }
            if decision.rule is not None:
                added["rule"] = decision.rule
            if decision.truncated:
                added["truncated"] = True
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
    data: Annotated[Path, typer.Argument(help="Folder with *.jsonl or *.jsonl.gz of {text, route}.")],
    encoder: Annotated[Path | None, typer.Option(help="Folder of all-MiniLM-L6-v2; none: n-grams alone.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write the router to.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Measure other ways; write no router.")] = False,
    evaluate: Annotated[
        str | None, typer.Option(help="Folder of a router to measure on DATA, or `bundled`; trains nothing.")
    ] = None,
    hold_out_phrasing: Annotated[
        bool, typer.Option("--hold-out-phrasing", help="Train without insurers and spoken style, and measure there.")
    ] = False,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    sources: Annotated[str, typer.Option(help="Note on sources and licences for the manifest.")] = "",
) -> None:
    """Train a router on the routes that DATA names, compare ways to build one, or evaluate one; figures as JSON."""
    if [out is not None, compare, evaluate is not None].count(True) != 1:
        raise typer.BadParameter("give one of --out FOLDER, --compare and --evaluate FOLDER")
    if compare and encoder is None:
        raise typer.BadParameter("--compare needs --encoder FOLDER")
    with clear_errors():
        from routing.router import Router
        from routing.train.compare import compare_ways
        from routing.train.data import load
        from routing.train.recipe import DistilRecipe
        from routing.train.report import figures
        from routing.train.run import train

        if evaluate is not None:
            report: Any = figures(
                Router.load(None if evaluate == "bundled" else evaluate), load(data, hold_out_phrasing)
            )
        elif out is None:
            report = compare_ways(data, encoder or Path(), hold_out_phrasing)
        else:
            recipe = DistilRecipe(epochs=epochs, seed=seed)
            report = train(data, encoder, out, recipe, hold_out_phrasing, sources).model_dump()
    print(json.dumps(report))
