"""`winnow models` and `winnow rollback`: what needs no torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from reward_model.console import clear_errors

models_app = typer.Typer(add_completion=False, help="List the registry's checkpoints; push and pull them.")
rollback_app = typer.Typer(add_completion=False)

Registry = Annotated[Path, typer.Option(envvar="WINNOW_REGISTRY", help="Folder of checkpoints and their aliases.")]
By = Annotated[str | None, typer.Option(help="Who does it, for the history; user@host where not given.")]


@models_app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    registry: Annotated[
        Path | None, typer.Option(envvar="WINNOW_REGISTRY", help="Folder of checkpoints; the bundled ones without it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with the history.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file and say whether it is what was published.")
    ] = False,
) -> None:
    """List checkpoints: aliases, lineage, held-out figures, calibrator, red team."""
    if context.invoked_subcommand is not None:
        return
    from reward_model.registry import listing as registry_listing

    with clear_errors():
        listing = registry_listing.listing(registry, verify)
    if as_json:
        print(json.dumps(listing, ensure_ascii=False))
    else:
        registry_listing.show(listing)


@models_app.command()
def push(
    name: Annotated[str, typer.Argument(help="NAME@VERSION, a name or an alias.")],
    repo: Annotated[str, typer.Argument(help="Repository on the hub: OWNER/NAME.")],
    registry: Registry,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
    endpoint: Annotated[str | None, typer.Option(envvar="HF_ENDPOINT", help="Address of the hub.")] = None,
) -> None:
    """Upload a checkpoint to a hub repository and tag it with its version."""
    from reward_model.training.release import hub

    with clear_errors():
        done = hub.push(name, registry, repo, hub.connect(endpoint), private=not public)
    print(json.dumps(done))


@models_app.command()
def export(
    name: Annotated[str, typer.Argument(help="NAME@VERSION, a name, an alias, or a folder.")],
    folder: Annotated[Path, typer.Argument(help="New folder to write.")],
    registry: Annotated[
        Path | None, typer.Option(envvar="WINNOW_REGISTRY", help="Folder of checkpoints; the bundled ones without it.")
    ] = None,
    last_token: Annotated[
        bool, typer.Option("--last-token", help="Write one that reads the mean all the same; its scores are others.")
    ] = False,
) -> None:
    """Write a checkpoint as a one-label sequence classifier for transformers and vLLM."""
    from reward_model.checkpoint.export import export as write

    with clear_errors():
        done = write(name, folder, registry, last_token=last_token)
    print(json.dumps(done))


@models_app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="Repository on the hub: OWNER/NAME.")],
    registry: Registry,
    revision: Annotated[str | None, typer.Option(help="Version (a tag), branch or commit; else the newest.")] = None,
    alias: Annotated[str, typer.Option(help="Alias to point at it.")] = "challenger",
    allow_unsafe: Annotated[
        str | None, typer.Option(metavar="REASON", help="Publish although the red team did not pass it; recorded.")
    ] = None,
    by: By = None,
    endpoint: Annotated[str | None, typer.Option(envvar="HF_ENDPOINT", help="Address of the hub.")] = None,
    device: Annotated[str, typer.Option(help="Where to load it for its test: cpu, cuda, ...")] = "cpu",
) -> None:
    """Download a checkpoint and publish it, behind the same checks as `winnow publish`."""
    from reward_model.training.release import hub

    with clear_errors():
        done = hub.pull(repo, registry, hub.connect(endpoint), revision, alias, allow_unsafe, by, device)
    print(json.dumps(done, ensure_ascii=False))


@rollback_app.command()
def rollback(
    registry: Registry,
    alias: Annotated[str, typer.Option(help="Alias to move back.")] = "champion",
    to: Annotated[str | None, typer.Option(help="NAME@VERSION to go back to; else where it pointed before.")] = None,
    by: By = None,
) -> None:
    """Point an alias back at what it pointed at before, if that is there and whole."""
    from reward_model.registry import history as registry_history

    with clear_errors():
        event = registry_history.rollback(registry, alias, to, by)
    if event.now is None:
        print(f"winnow: {alias} points nowhere now; champion then means the bundled model", file=sys.stderr)
    shown: dict[str, Any] = {"alias": alias, "was": event.was, "now": event.now, "number": event.number, "at": event.at}
    print(json.dumps(shown))
