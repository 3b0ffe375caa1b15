"""`winnow score`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reward_model.console import clear_errors
from reward_model.offline.options import settings_of
from reward_model.serving.cli import load, say

if TYPE_CHECKING:
    from reward_model.offline.rows import Defaults
    from reward_model.serving.settings import ScorerSettings

score_app = typer.Typer(add_completion=False)


@score_app.command()
def score(
    file: Annotated[str, typer.Argument(help="JSONL of prompt and completions; may end in .gz, or be -.")],
    model: Annotated[str | None, typer.Option(help="Reward model to load; the champion where none is named.")] = None,
    url: Annotated[str | None, typer.Option(help="Ask this scorer instead of loading a model.")] = None,
    registry: Annotated[Path | None, typer.Option(help="Folder of checkpoints beside the bundled ones.")] = None,
    device: Annotated[str | None, typer.Option(help="Device of a loaded model: auto, cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="Precision of a loaded model: auto, bf16 or fp32.")] = None,
    locale: Annotated[str | None, typer.Option(help="Picks the head for rows that name no `locale`.")] = None,
    route: Annotated[str | None, typer.Option(help="Picks the calibrator for rows that name no `route`.")] = None,
    out: Annotated[str, typer.Option(help="Where to write; - is the standard output.")] = "-",
) -> None:
    """Add scores and probabilities to each line of a file.

    A prompt is computed once for all its completions where the model allows it. A row's own `locale` picks the head,
    its `route` and `stopping_rule` the calibrator. Every setting of the scorer (WINNOW_SCORER_*) holds here too.
    """
    from reward_model.offline.remote import remote_scores
    from reward_model.offline.rows import Defaults

    defaults = Defaults(locale, route)
    with clear_errors():
        settings = settings_of(model=model, registry=registry, device=device, dtype=dtype)
        scored = remote_scores(file, url, defaults, settings.api_key) if url else _local(file, settings, defaults)
        _write(scored, out)


def _local(file: str, settings: ScorerSettings, defaults: Defaults) -> Iterator[dict[str, Any]]:
    from reward_model.offline.score import local_scores
    from reward_model.offline.scoring import PromptScorer

    with PromptScorer(load(settings), settings) as scorer:
        yield from local_scores(file, scorer, defaults, _say_progress)


def _write(lines: Iterable[dict[str, Any]], out: str) -> None:
    from reward_model.jsonl import open_text

    with open_text(out, "w") as stream:
        for line in lines:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def _say_progress(lines: int) -> None:
    say(f"{lines} lines scored")
