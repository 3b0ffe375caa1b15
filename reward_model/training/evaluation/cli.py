"""`winnow evaluate`."""

from __future__ import annotations

import json
import os
import sys
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from reward_model.console import clear_errors
from reward_model.errors import BadInput

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
    """
    from reward_model.labels import LabelledReply, Pair, read_rows

    with clear_errors():
        every = list(read_rows(pairs, Pair)) if split else list(islice(read_rows(pairs, Pair), limit))
        rows = [pair for pair in every if split is None or pair.split == split][:limit]
        # What the baselines may learn from: the file's own training pairs, where others are measured.
        train = [pair for pair in every if pair.split == "train"] if split not in (None, "train") else []
        if not rows:
            raise BadInput(f"{pairs} has no pairs{f' of the split {split}' if split else ''}")
        from reward_model.checkpoint.loading import load_model
        from reward_model.training.evaluation import evaluate as evaluation
        from reward_model.training.evaluation.baselines import baselines
        from reward_model.training.fit.truncation import describe, distinct_pairs

        loaded = load_model(model, registry)
        total, rows = len(rows), distinct_pairs(rows, loaded.formatter)
        if equal := total - len(rows):
            print(f"warning: {describe(equal, total)}", file=sys.stderr)
        scores = evaluation.score_pairs(loaded, rows)
        report = evaluation.report_on(loaded, rows, scores, equal)
        report["baselines"] = baselines(rows, train, lambda asked: evaluation.score_pairs(loaded, asked))
        if ratings is not None:
            report["ratings"] = evaluation.rate_correlation(loaded, list(read_rows(ratings, LabelledReply)))
        if judge is not None:
            from reward_model.training.evaluation.judge import judge_agreement

            key = os.environ.get("WINNOW_JUDGE_API_KEY")
            report["judge"] = judge_agreement(judge, judge_model, rows, scores, judge_pairs, seed, key)
        if html is not None:
            from reward_model.training.evaluation.report import evaluation_report

            evaluation_report(report, rows, scores, Path(pairs).name).write(html)
    print(json.dumps(report, ensure_ascii=False))
