"""`winnow calibrate`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from reward_model.errors import BadInput
from reward_model.training.console import clear_errors

calibrate_app = typer.Typer(add_completion=False)


@calibrate_app.command()
def calibrate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint; calibration.json goes there.")],
    labels: Annotated[str, typer.Argument(help="JSONL of labelled replies; may end in .gz, or be -.")],
    url: Annotated[
        str | None, typer.Option(help="A scorer that serves the checkpoint; without one, one is started.")
    ] = None,
    method: Annotated[
        Literal["auto", "platt", "isotonic"], typer.Option(help="auto: isotonic from 1,000 labels on.")
    ] = "auto",
    by_route: Annotated[bool, typer.Option(help="Fit a curve for each route with labels enough.")] = True,
    alpha: Annotated[float, typer.Option(help="Unacceptable share allowed among accepted answers.")] = 0.05,
    delta: Annotated[float, typer.Option(help="Chance that the promise of `alpha` is broken.")] = 0.05,
    html: Annotated[Path | None, typer.Option(help="Write a report with plots there.")] = None,
) -> None:
    """Fit the probability that a reviewer would send a reply, on the replies of the calibration split.

    Scores come from the scorer over HTTP, as in serving. Replies that name no split count as calibration ones; those
    of the train and test splits are left out.
    """
    from reward_model.training.data import LabelledReply, read_rows

    with clear_errors():
        if not (0 < alpha < 1 and 0 < delta < 1):
            raise BadInput(f"--alpha and --delta lie between 0 and 1, not {alpha} and {delta}")
        replies = [r for r in read_rows(labels, LabelledReply) if r.split in (None, "calibration")]
        if not replies:
            raise BadInput(f"{labels} has no replies of the calibration split")
        from reward_model.calibration import save_calibration
        from reward_model.checkpoint import read_manifest
        from reward_model.training import calibrate as calibration
        from reward_model.training.calibration_report import calibration_report
        from reward_model.training.scoring import own_scorer, scored_by

        orm = read_manifest(checkpoint).id
        calibration.shared_selection(replies)  # before a scorer is started in vain
        with nullcontext(url) if url else own_scorer(checkpoint) as address:
            scores = scored_by(str(address), orm)(replies)
        how = calibration.How(method=method, by_route=by_route, alpha=alpha, delta=delta)
        fitted = calibration.calibrate(orm, replies, lambda _: scores, how)
        save_calibration(checkpoint, fitted)
        if html is not None:
            calibration_report(fitted, calibration.labelled(replies, scores)).write(html)
    print(fitted.model_dump_json())
