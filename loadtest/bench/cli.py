"""`winnow bench`: measurements that end in one JSON object on the standard output."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

bench_app = typer.Typer(add_completion=False, no_args_is_help=True)


@bench_app.callback()
def _root() -> None:
    """Benchmarks: run them on a machine that does nothing else."""


@bench_app.command()
def machine(
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    policy_url: Annotated[
        str | None, typer.Option(help="Measure this policy too, such as `winnow policy` runs.")
    ] = None,
) -> None:
    """Measure what this machine can do at best (about half a minute)."""
    from aiohttp import ClientError

    from loadtest.bench.machine import measure

    try:
        found = measure(device, policy_url)
    except ClientError as error:
        typer.echo(f"winnow bench: {policy_url} cannot be measured: {error}", err=True)
        raise typer.Exit(2) from error
    except (RuntimeError, AssertionError) as error:
        typer.echo(f"winnow bench: the device {device!r} cannot be used: {str(error).splitlines()[0]}", err=True)
        raise typer.Exit(2) from error
    typer.echo(json.dumps(asdict(found), indent=2))
