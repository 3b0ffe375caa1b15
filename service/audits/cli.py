"""`winnow audit`: draws a random sample of answers, has it judged blind, and reports."""

from __future__ import annotations

import datetime
import getpass
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.store.cli import UrlOption, on_store
from service.terminal import ConfigOption, clear_errors

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.store.rows import Row

audit_app = typer.Typer(add_completion=False, no_args_is_help=True)
AuditArgument = Annotated[str, typer.Argument(help="Which audit; `latest` for the newest.")]
AnnotatorOption = Annotated[str, typer.Option(help="Who judges: the name of their key.")]
_DAY_MS = 86_400_000


@audit_app.callback()
def _root() -> None:
    """Audits of what was answered: draw, label, report."""


@audit_app.command()
def draw(
    size: Annotated[int, typer.Option(min=1, help="Answers to draw.")] = 500,
    days: Annotated[float, typer.Option(min=0, help="Of the last so many days.")] = 7,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    overlap: Annotated[float, typer.Option(min=0, max=1, help="Share that two annotators label.")] = 0.2,
    greedy: Annotated[
        float, typer.Option(min=0, max=1, help="Share held against the policy's greedy answer, not a candidate.")
    ] = 0.5,
    url: UrlOption = None,
    config: ConfigOption = None,
) -> None:
    """Draw a stratified random sample of answers for people to judge blind; asks the policy for greedy answers."""
    from service.audits.drawing import Draw, draw_audit
    from service.audits.greedy import asking
    from service.settings import load_settings
    from service.store.redaction import redactor_of

    now = int(time.time() * 1000)
    name = f"audit-{datetime.datetime.now(datetime.UTC).date().isoformat()}-{seed}"
    draw_plan = Draw(size, seed, now - int(days * _DAY_MS), now, overlap, greedy)
    with clear_errors():
        settings = load_settings(config)

    async def drawn(engine: AsyncEngine) -> Row:
        async with asking(settings) as ask:
            return await draw_audit(engine, name, draw_plan, getpass.getuser(), ask, redactor_of(settings.store))

    _print(on_store(url, config, drawn))


@audit_app.command()
def sheet(audit: AuditArgument, annotator: AnnotatorOption, url: UrlOption = None, config: ConfigOption = None) -> None:
    """Print the pairs that an annotator may still judge, a line each; `winnow audit label` takes them back."""
    from service.audits.judging import Audits

    async def items(engine: AsyncEngine) -> list[Row]:
        return await Audits(engine).sheet(await _named(engine, audit), annotator)

    for item in on_store(url, config, items):
        _print(item)


@audit_app.command()
def label(
    audit: AuditArgument,
    file: Annotated[Path, typer.Argument(help="Lines with `item`, `choice` (left, right, tie) and what else is said.")],
    annotator: AnnotatorOption,
    url: UrlOption = None,
    config: ConfigOption = None,
) -> None:
    """Take in labels from a JSONL file, all of them or none. Lines without a choice, and the texts, are passed over."""
    from service.audits.judging import Audits
    from service.settings import load_settings
    from service.store.redaction import redactor_of

    with clear_errors():
        labels = list(_labels(file))
        redactor = redactor_of(load_settings(config).store)

    async def keep(engine: AsyncEngine) -> None:
        await Audits(engine, redactor=redactor).label(await _named(engine, audit), annotator, labels)

    on_store(url, config, keep)
    _print({"labels": len(labels)})


@audit_app.command()
def report(
    audit: AuditArgument = "latest",
    html: Annotated[Path | None, typer.Option(help="Also write a page with plots.")] = None,
    url: UrlOption = None,
    config: ConfigOption = None,
) -> None:
    """Print what an audit says as JSON: agreement, kappa, win-rate, calibration, each with interval and baseline."""
    from service.audits.report import audit_report, gather

    async def gathered(engine: AsyncEngine) -> Row:
        return await gather(engine, await _named(engine, audit))

    try:
        figures = on_store(url, config, gathered)
        if html is not None:
            audit_report(figures).write(html)
    except ModuleNotFoundError as error:
        print(f"winnow: a report needs {error.name}: pip install 'winnow-rerank[audit]'", file=sys.stderr)
        raise typer.Exit(2) from error
    _print(figures)


def _labels(file: Path) -> Any:
    from pydantic import ValidationError

    from reward_model.faults import first_fault
    from service.audits.judging import AuditLabel
    from service.errors import SetupError

    try:
        lines = (sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{file}: {error}") from error
    for number, line in enumerate(lines, 1):
        where = f"{file}, line {number}"
        try:
            row = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            raise SetupError(f"{where}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise SetupError(f"{where}: an object is wanted")
        fields = {name: value for name, value in row.items() if name not in ("item", "prompt", "left", "right")}
        if fields.get("choice") is None:
            continue
        try:
            yield str(row["item"]), AuditLabel.model_validate(fields)
        except KeyError as error:
            raise SetupError(f"{where}: `item` is missing") from error
        except ValidationError as error:
            raise SetupError(f"{where}: {first_fault(error)}") from error


async def _named(engine: AsyncEngine, audit: str) -> str:
    from service.audits.judging import Audits
    from service.errors import SetupError

    if audit != "latest":
        return audit
    audits = await Audits(engine).listed()
    if not audits:
        raise SetupError("no audit was drawn yet: winnow audit draw")
    return str(audits[0]["id"])


def _print(value: Any) -> None:
    print(json.dumps(value))
