"""`winnow calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reward_model.errors import BadInput
from reward_model.training.console import clear_errors

calibrate_app = typer.Typer(add_completion=False)


@calibrate_app.command()
def calibrate(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint; calibration.json goes there.")],
    labels: Annotated[str, typer.Argument(help="JSONL of labelled replies; may end in .gz, or be -.")],
) -> None:
    """Fit the probability that a reviewer would send a reply, on the replies of the calibration split.

    Replies that name no split count as calibration ones; those of the train and test splits are left out.
    """
    from reward_model.training.data import LabelledReply, read_rows

    with clear_errors():
        replies = [r for r in read_rows(labels, LabelledReply) if r.split in (None, "calibration")]
        if not replies:
            raise BadInput(f"{labels} has no replies of the calibration split")
        from reward_model.calibration import save_calibration
        from reward_model.checkpoint import load_checkpoint
        from reward_model.training import calibrate as calibration

        fitted = calibration.calibrate(load_checkpoint(checkpoint), replies)
        save_calibration(checkpoint, fitted)
    print(fitted.model_dump_json())
