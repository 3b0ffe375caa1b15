"""`winnow data`: curation."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reward_model.console import clear_errors
from reward_model.errors import BadInput

if TYPE_CHECKING:
    from reward_model.training.curation.reading import SchemaError
    from reward_model.training.generation.endpoints import Endpoint

data_app = typer.Typer(add_completion=False, help="Prepare preference data.")

# Errors of schema that are said on the terminal; the JSON has them all.
_SAID = 20


@data_app.callback()
def data_commands() -> None:
    """Prepare preference data."""


@data_app.command()
def split(
    data: Annotated[Path, typer.Option(help="Folder with preferences/*.jsonl.gz.")],
    out: Annotated[Path, typer.Option(help="Folder to write train/, validation/ and test/ to.")],
) -> None:
    """Split pairs by group into train, validation and test, as `winnow train` does."""
    from reward_model.training.curation.split import split_folder

    with clear_errors():
        report = split_folder(data, out)
    print(json.dumps(report))


@data_app.command()
def check(
    pairs: Annotated[list[str], typer.Argument(help="JSONL of pairs, .gz or not; several are splits of each other.")],
    one_set: Annotated[bool, typer.Option("--one-set", help="Several files are parts of one set, not splits.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here, not to stdout.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report with plots here.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when there is a warning.")] = False,
    min_agreement: Annotated[float, typer.Option(min=0, max=1, help="Warn where annotators agree less.")] = 0.7,
    min_bucket: Annotated[int, typer.Option(min=0, help="Warn of buckets with fewer pairs.")] = 50,
    max_longer_wins: Annotated[
        float, typer.Option(min=0.5, max=1, help="Warn where the longer (or the shorter) reply wins more often.")
    ] = 0.65,
    similarity: Annotated[
        float, typer.Option(min=0.5, max=1, help="Share of equal runs of 5 characters that makes near-duplicates.")
    ] = 0.8,
    model: Annotated[
        str, typer.Option(help="Count the pairs whose replies this model's truncation makes equal: as in `evaluate`.")
    ] = "winnow-orm",
    registry: Annotated[
        Path | None,
        typer.Option(envvar="WINNOW_REGISTRY", help="Folder of checkpoints beside the bundled one."),
    ] = None,
) -> None:
    """Check pairs: schema, duplicates, truncation, leakage, position and length bias, annotators, buckets.

    Exits with 2 when a line is no pair, with 1 for warnings under --strict, else with 0.
    """
    from reward_model.checkpoint.loading import load_formatter_of
    from reward_model.training.curation import check as checking
    from reward_model.training.curation.check_report import check_report
    from reward_model.training.curation.reading import read_file

    with clear_errors():
        files = [read_file(path) for path in pairs]
        limits = checking.DataLimits(min_agreement, min_bucket, max_longer_wins, similarity=similarity)
        result = checking.check(files, limits, one_set, load_formatter_of(model, registry))
        if html is not None:
            check_report(result).write(html)
    text = json.dumps(result, ensure_ascii=False)
    if json_file is None:
        print(text)
    else:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(text + "\n", encoding="utf-8")
    _say([error for file in files for error in file.errors], [warning["message"] for warning in result["warnings"]])
    if result["schema_errors"]:
        raise typer.Exit(2)
    if strict and result["warnings"]:
        raise typer.Exit(1)


def _say(errors: list[SchemaError], warnings: list[str]) -> None:
    for error in errors[:_SAID]:
        print(f"winnow: {error}", file=sys.stderr)
    if len(errors) > _SAID:
        print(f"winnow: and {len(errors) - _SAID} more errors of schema", file=sys.stderr)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


@data_app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="TOML file of the set.")],
    out: Annotated[Path, typer.Option(help="Folder to write the set to; must not exist.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder with preferences/*.jsonl.gz, for sources without a path.")
    ] = None,
) -> None:
    """Build a curated set: drop what is doubtful, draw by bucket, mix in controls, split by group."""
    with clear_errors():
        from reward_model.training.curation import build as building

        manifest = building.build(recipe, out, data)
    print(json.dumps(manifest, ensure_ascii=False))


@data_app.command()
def pairs(
    prompts: Annotated[
        str, typer.Argument(help="JSONL of prompts (`prompt` or `messages`), pairs or labelled replies.")
    ],
    out: Annotated[Path, typer.Option(help="JSONL of pairs to write; must not exist.")],
    policy: Annotated[str | None, typer.Option(help="URL[,model] of the current policy.")] = None,
    older: Annotated[str | None, typer.Option(help="URL[,model] of an older checkpoint of it.")] = None,
    teacher: Annotated[str | None, typer.Option(help="URL[,model] of a stronger model.")] = None,
    n: Annotated[int, typer.Option(min=1, help="Replies of each to a prompt.")] = 2,
    temperature: Annotated[float, typer.Option(min=0)] = 0.8,
    top_p: Annotated[float, typer.Option(min=0, max=1)] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    seed: Annotated[int, typer.Option(help="Each reply's own seed is drawn from it.")] = 7,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 8,
    reference_origin: Annotated[
        str | None, typer.Option(help="Who wrote the references that do not say it: human, authored, teacher, ...")
    ] = None,
    reference_label: Annotated[
        str | None, typer.Option(help="Every reference is known to win, as judged by: human, authored, judge, ...")
    ] = None,
) -> None:
    """Make controlled pairs: a reference against replies of the policy, an older one and a teacher.

    Keys are read from WINNOW_POLICY_API_KEY, WINNOW_OLDER_API_KEY and WINNOW_TEACHER_API_KEY. A run that was
    interrupted goes on where it stopped when the same command is given again.
    """
    with clear_errors():
        from reward_model.training.generation.endpoints import SamplingParameters
        from reward_model.training.generation.generate import generate
        from reward_model.training.generation.prompts import read_prompts

        targets = _endpoints(policy=policy, older_policy=older, teacher=teacher)
        rows = read_prompts(prompts, reference_origin, reference_label)
        how = SamplingParameters(n, temperature, top_p, max_tokens, seed)
        report = generate(rows, targets, how, out, concurrency, progress=_progress(len(rows)))
    print(json.dumps(report, ensure_ascii=False))


@data_app.command()
def export(
    out: Annotated[Path, typer.Argument(help="Folder to write to, as `winnow train --data` reads it; must not exist.")],
    gateway: Annotated[str, typer.Option(help="Whose verdicts, feedback and audits.")] = "http://127.0.0.1:8000",
    since: Annotated[str | None, typer.Option(help="Judged from then on (ISO date or time, UTC).")] = None,
    until: Annotated[str | None, typer.Option(help="Judged before then.")] = None,
) -> None:
    """Export what people said of a gateway's answers as pairs and labelled replies; the key is WINNOW_API_KEY."""
    with clear_errors():
        from reward_model.training.generation.collect import collect

        key = os.environ.get("WINNOW_API_KEY")
        if not key:
            raise BadInput("set WINNOW_API_KEY to an operator's key: winnow key make NAME --role operator --keys FILE")
        report = collect(gateway, key, out, since, until)
    print(json.dumps(report))


def _endpoints(**addresses: str | None) -> list[Endpoint]:
    from reward_model.training.generation.endpoints import endpoint

    keys = {
        "policy": "WINNOW_POLICY_API_KEY",
        "older_policy": "WINNOW_OLDER_API_KEY",
        "teacher": "WINNOW_TEACHER_API_KEY",
    }
    return [endpoint(name, address, os.environ.get(keys[name])) for name, address in addresses.items() if address]


def _progress(prompts: int) -> Callable[[int], None]:
    """Says every tenth part on the terminal."""

    def say(done: int) -> None:
        if done == prompts or done % max(1, prompts // 10) == 0:
            print(f"{done} of {prompts} prompts", file=sys.stderr, flush=True)

    return say


@data_app.command()
def shortcuts(
    pairs: Annotated[str, typer.Argument(help="JSONL of pairs with splits; may end in .gz, or be -.")],
    base: Annotated[
        str, typer.Option(help="Frozen model of the reply-only baseline: bundled, or a folder.")
    ] = "bundled",
    layers: Annotated[int, typer.Option(min=1, help="Its first layers that are used.")] = 12,
) -> None:
    """Say how far the winner can be told without reading the prompt: by its words, and by the reply alone."""
    from reward_model.labels import Pair, read_rows

    with clear_errors():
        rows = list(read_rows(pairs, Pair))
        from reward_model.training.evaluation.shortcuts import shortcuts as measure

        result = measure(rows, base, layers)
    print(json.dumps(result))
