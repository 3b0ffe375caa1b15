"""`winnow redteam`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reward_model.console import clear_errors
from reward_model.errors import BadInput

if TYPE_CHECKING:
    from reward_model.labels import Pair

redteam_app = typer.Typer(add_completion=False)


@redteam_app.command()
def redteam(
    pairs: Annotated[str, typer.Argument(help="JSONL of honest pairs; may end in .gz, or be -.")],
    model: Annotated[str, typer.Option(help="Name, name@version, alias, folder or hub id.")] = "winnow-orm",
    registry: Annotated[
        Path | None, typer.Option(envvar="WINNOW_REGISTRY", help="Folder of checkpoints beside the bundled one.")
    ] = None,
    limit: Annotated[
        float,
        typer.Option(min=0, max=1, help="Rate that no attack's interval may exceed; near_duplicate has its own."),
    ] = 0.25,
    most: Annotated[int, typer.Option(min=1, help="Attack at most this many pairs.")] = 150,
    seed: Annotated[int, typer.Option(help="Draws pairs and phrases.")] = 7,
    split: Annotated[str | None, typer.Option(help="Only pairs that the file puts in this split.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the result there too: redteam.json of a checkpoint.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report with plots there.")] = None,
    before: Annotated[
        Path | None, typer.Option(help="An earlier result on the same pairs and seed, to stand beside this one there.")
    ] = None,
    emit_pairs: Annotated[
        Path | None, typer.Option(help="Attack nothing; write pairs that teach a model to resist.")
    ] = None,
    hold_out: Annotated[str, typer.Option(help="Attacks to leave out of those pairs, separated by commas.")] = "",
    per_pair: Annotated[int, typer.Option(min=1, help="How many attacks on each pair those pairs hold.")] = 1,
) -> None:
    """Rewrite losing replies to game the model; exits with 1 if an attack may succeed too often or cannot be tried.

    The upper end of a rate's 95 % interval decides, so at least 12 pairs are needed where no attack succeeds.
    """
    from reward_model.labels import Pair, read_rows

    with clear_errors():
        rows = [pair for pair in read_rows(pairs, Pair) if split is None or pair.split == split]
        if not rows:
            raise BadInput(f"{pairs} has no pairs{f' of the split {split}' if split else ''}")
        if emit_pairs is not None:
            held_out = [name for name in hold_out.split(",") if name]
            print(json.dumps(_emit(rows, emit_pairs, seed, held_out, per_pair)))
            return
        from reward_model.checkpoint.loading import load_model
        from reward_model.training.redteam import redteam as team
        from reward_model.training.redteam.report import redteam_report

        if before is not None and html is None:
            raise BadInput("--before stands in the report: say where with --html", param="before")
        earlier = None if before is None else _read(before)
        result = team.redteam(load_model(model, registry), rows, seed, limit, most)
        if out is not None:
            _write(out, result)
        if html is not None:
            redteam_report(result, earlier).write(html)
    print(json.dumps(result))
    raise typer.Exit(0 if result["passed"] else 1)


def _emit(rows: list[Pair], path: Path, seed: int, hold_out: list[str], per_pair: int) -> dict[str, object]:
    from reward_model.jsonl import write_jsonl
    from reward_model.training.redteam.redteam import mitigation_pairs

    pairs = mitigation_pairs(rows, seed, hold_out, per_pair)
    made = [pair.model_dump(mode="json", exclude_none=True) for pair in pairs]
    write_jsonl(path, made)
    return {"pairs": len(made), "path": str(path), "held_out": hold_out}


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        return {key: found[key] for key in ("orm", "digest", "seed", "by_attack")}
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise BadInput(f"{path} is not a red team's result") from error


def _write(path: Path, result: dict[str, Any]) -> None:
    """In one step: publishing reads this file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.writing")
    scratch.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)
