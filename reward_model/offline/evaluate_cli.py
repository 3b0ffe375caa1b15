"""`winnow evaluate`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reward_model.console import clear_errors
from reward_model.errors import BadInput
from reward_model.offline.options import settings_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from reward_model.checkpoint.loaded_model import LoadedModel
    from reward_model.labels import Pair
    from reward_model.serving.settings import ScorerSettings
    from reward_model.training.evaluation.evaluate import ScorePrompts

evaluate_app = typer.Typer(add_completion=False)


@evaluate_app.command()
def evaluate(
    pairs: Annotated[str, typer.Argument(help="JSONL of pairs; may end in .gz, or be - for stdin.")],
    model: Annotated[str, typer.Option(help="Name, name@version, alias, folder or hub id.")] = "winnow-orm",
    registry: Annotated[
        Path | None,
        typer.Option(envvar="WINNOW_REGISTRY", help="Folder of checkpoints beside the bundled one."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read at most this many pairs.")] = None,
    split: Annotated[str | None, typer.Option(help="Only pairs that the file puts in this split.")] = None,
    locale: Annotated[str | None, typer.Option(help="Picks the head for pairs that name no `locale`.")] = None,
    route: Annotated[
        str | None, typer.Option(help="Whose calibrator is reported for pairs that name no `bucket`.")
    ] = None,
    max_sequence_tokens: Annotated[
        int | None,
        typer.Option(
            min=16,
            help="Maximum number of tokens of a prompt with its reply, for models of others; more than their own limit "
            "means their own limit. Unset: WINNOW_SCORER_MAX_SEQUENCE_TOKENS, or 4,096.",
        ),
    ] = None,
    ratings: Annotated[str | None, typer.Option(help="JSONL of rated replies: correlate scores with them.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="Base URL (.../v1) of a language model to compare with; a smoke test only.")
    ] = None,
    judge_model: Annotated[
        str, typer.Option(help="The judge's model name; its key is WINNOW_JUDGE_API_KEY.")
    ] = "judge",
    judge_pairs: Annotated[int, typer.Option(min=1, help="Ask the judge about at most this many pairs.")] = 50,
    seed: Annotated[int, typer.Option(help="Draws the judge's pairs.")] = 7,
    html: Annotated[Path | None, typer.Option(help="Write a report with plots there.")] = None,
) -> None:
    """Measure a reward model on pairs: accuracy with its interval, beside its baselines.

    Baselines learn from the file's train split where --split names another, else in folds over the pairs themselves.

    Pairs whose replies are the same tokens after truncation are left out and counted.

    A prompt is computed once for all its replies where the model allows it. Device, precision, threads and length are
    the scorer's settings (WINNOW_SCORER_*), so that a pair has the scores that serving would give it.
    """
    with clear_errors():
        rows, train = _read(pairs, split, limit, locale)
        settings = settings_of(model=model, registry=registry, max_sequence_tokens=max_sequence_tokens)
        with _loaded(settings) as (loaded, score):
            report, rows, scores = _measured(loaded, score, rows, train, route)
            if ratings is not None:
                report["ratings"] = _rated(loaded, score, ratings, locale)
        if judge is not None:
            from reward_model.training.evaluation.judge import judge_agreement

            key = os.environ.get("WINNOW_JUDGE_API_KEY")
            report["judge"] = judge_agreement(judge, judge_model, rows, scores, judge_pairs, seed, key)
        if html is not None:
            from reward_model.training.evaluation.report import evaluation_report

            evaluation_report(report, rows, scores, Path(pairs).name).write(html)
    print(json.dumps(report, ensure_ascii=False))


def _read(path: str, split: str | None, limit: int | None, locale: str | None) -> tuple[list[Pair], list[Pair]]:
    """The pairs to measure, and those that the baselines may learn from: the file's own training pairs, where others
    are measured."""
    from reward_model.labels import Pair, read_rows

    every = list(read_rows(path, Pair)) if split else list(islice(read_rows(path, Pair), limit))
    rows = [_in_locale(pair, locale) for pair in every if split is None or pair.split == split][:limit]
    if not rows:
        raise BadInput(f"{path} has no pairs{f' of the split {split}' if split else ''}")
    return rows, [pair for pair in every if pair.split == "train"] if split not in (None, "train") else []


def _in_locale(row: Any, locale: str | None) -> Any:
    return row if locale is None or "locale" in row.model_fields_set else row.model_copy(update={"locale": locale})


@contextmanager
def _loaded(settings: ScorerSettings) -> Iterator[tuple[LoadedModel, ScorePrompts | None]]:
    """The model, and how it scores prompts; None for our own, which are packed as in training: that shares the turns
    of a dialogue too."""
    from reward_model.model.reward_model import RewardModel
    from reward_model.offline.scoring import Prompt, PromptScorer
    from reward_model.serving.engine import load_configured

    loaded = load_configured(settings)
    if isinstance(loaded.module, RewardModel):
        yield loaded, None
        return
    with PromptScorer(loaded, settings) as scorer:
        yield loaded, lambda prompts: scorer.scores([Prompt(*prompt) for prompt in prompts])


def _measured(
    model: LoadedModel,
    score: ScorePrompts | None,
    pairs: Sequence[Pair],
    train: Sequence[Pair],
    route: str | None,
) -> tuple[dict[str, Any], list[Pair], NDArray[np.float32]]:
    """The report, the pairs that it is of, and their scores."""
    from reward_model.training.evaluation import evaluate as evaluation
    from reward_model.training.evaluation.baselines import baselines
    from reward_model.training.fit.truncation import describe, distinct_pairs

    rows = distinct_pairs(pairs, model.formatter)
    if equal := len(pairs) - len(rows):
        print(f"warning: {describe(equal, len(pairs))}", file=sys.stderr)
    scores = evaluation.score_pairs(model, rows, score)
    report = evaluation.report_on(model, rows, scores, equal, route)
    report["baselines"] = baselines(rows, train, lambda asked: evaluation.score_pairs(model, asked, score))
    return report, rows, scores


def _rated(model: LoadedModel, score: ScorePrompts | None, path: str, locale: str | None) -> dict[str, Any]:
    from reward_model.labels import LabelledReply, read_rows
    from reward_model.training.evaluation.evaluate import rate_correlation

    replies = [_in_locale(reply, locale) for reply in read_rows(path, LabelledReply)]
    return rate_correlation(model, replies, score)
