"""`winnow publish` and `winnow promote`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reward_model.console import clear_errors

if TYPE_CHECKING:
    from reward_model.labels import Pair

publish_app = typer.Typer(add_completion=False)
promote_app = typer.Typer(add_completion=False)

Registry = Annotated[Path, typer.Option(envvar="WINNOW_REGISTRY", help="Folder of checkpoints and their aliases.")]
Device = Annotated[str, typer.Option(help="Where to load it: cpu, cuda, cuda:1, ...")]
By = Annotated[str | None, typer.Option(help="Who does it, for the history; user@host where not given.")]


@publish_app.command()
def publish(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint.")],
    registry: Registry,
    alias: Annotated[str, typer.Option(help="Alias to point at it.")] = "challenger",
    redteam_pairs: Annotated[
        str | None, typer.Option(help="JSONL of pairs to run the red team on, where the folder has no redteam.json.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the red team.")] = 7,
    allow_unsafe: Annotated[
        str | None, typer.Option(metavar="REASON", help="Publish although the red team did not pass it; recorded.")
    ] = None,
    by: By = None,
    device: Device = "cpu",
) -> None:
    """Check a checkpoint and put it into the registry: all of it, or nothing.

    It must load, be whole, have its own calibrator and have passed the red team: every attack tried, and each
    interval's upper end within the default limits.
    """
    with clear_errors():
        pairs = _pairs(redteam_pairs) if redteam_pairs else []
        from reward_model.training.release import publish as publishing

        red_team = publishing.RedTeam(pairs, seed, allow_unsafe)
        done = publishing.publish(checkpoint, registry, alias, red_team, by, device)
    print(json.dumps(done, ensure_ascii=False))


@promote_app.command()
def promote(
    name: Annotated[str, typer.Argument(help="NAME@VERSION, a name (its newest version) or an alias.")],
    registry: Registry,
    pairs: Annotated[str, typer.Option(help="JSONL of held-out pairs; may end in .gz, or be - for stdin.")],
    alias: Annotated[str, typer.Option(help="Alias to move.")] = "champion",
    high_risk: Annotated[
        list[str] | None,
        typer.Option(
            help="Bucket that must not regress, beside pairs of high risk; may be repeated. [default: "
            "billing, refund and fraud]"
        ),
    ] = None,
    margin: Annotated[float, typer.Option(help="Loss of accuracy that must be ruled out in such a bucket.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    against: Annotated[
        str | None, typer.Option(help="Compare with this checkpoint, not with the one that the alias points at.")
    ] = None,
    force: Annotated[
        str | None, typer.Option(metavar="REASON", help="Promote although the gate refuses; recorded.")
    ] = None,
    by: By = None,
    device: Device = "cpu",
) -> None:
    """Move an alias to a challenger that is no worse than the champion where risk is high; exit 1 if refused."""
    with clear_errors():
        held_out = _pairs(pairs)
        from reward_model.training.release import promote as promoting

        done = promoting.promote(name, registry, held_out, alias, high_risk, margin, seed, against, force, by, device)
    _say(done)
    print(json.dumps(done, ensure_ascii=False))
    if done["gate"] is not None and not done["promoted"]:
        raise typer.Exit(1)


def _pairs(path: str) -> list[Pair]:
    from reward_model.errors import BadInput
    from reward_model.labels import Pair, read_rows

    if not (rows := list(read_rows(path, Pair))):
        raise BadInput(f"{path} has no pairs")
    return rows


def _say(done: dict[str, Any]) -> None:
    """The gate's words on stderr, a line for each bucket that matters."""
    report = done["gate"] or {}
    lines = [report.get("note") or done.get("note"), *report.get("reasons", []), *report.get("warnings", [])]
    lines.append(f"{done['alias']} -> {done['orm']}" if done["promoted"] else f"{done['alias']} stays")
    for line in filter(None, lines):
        print(f"winnow: {line}", file=sys.stderr)
