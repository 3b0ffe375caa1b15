"""`winnow calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError

from reward_model.console import clear_errors
from reward_model.errors import BadInput
from reward_model.faults import first_fault

if TYPE_CHECKING:
    from reward_model.stopping import StoppingRule

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
    least_accepted: Annotated[
        int,
        typer.Option(help="Try only thresholds that accept so many labelled winners; set it before you see a result."),
    ] = 0,
    stop_cost: Annotated[
        list[float] | None,
        typer.Option(min=0.001, help="Fit one more calibrator, for routes with this `stop_cost`; repeatable."),
    ] = None,
    stop_marks: Annotated[str, typer.Option(help="Those routes' `stop_marks`.")] = "32,48,64,96",
    wave_cost: Annotated[
        list[float] | None, typer.Option(help="The same for routes with `waves` and this `wave_cost`; repeatable.")
    ] = None,
    waves: Annotated[str, typer.Option(help="Those routes' `waves`.")] = "2,4,8",
    early_accept: Annotated[
        list[float] | None,
        typer.Option(help="The same for routes with `early_accept` and this `accept_threshold`; repeatable."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report with plots there.")] = None,
) -> None:
    """Fit the probability that a reviewer would send a reply, on the replies of the calibration split.

    Scores come from the scorer over HTTP, as in serving. How well scores of partial completions tell the final ones is
    measured on the way. Where stopping rules of several kinds are named, the first of each are fitted together too.
    Replies that name no split count as calibration ones; those of the train and test splits are left out.
    """
    from reward_model.labels import LabelledReply, read_rows

    with clear_errors():
        replies = [r for r in read_rows(labels, LabelledReply) if r.split in (None, "calibration")]
        if not replies:
            raise BadInput(f"{labels} has no replies of the calibration split")
        from reward_model.calibration import save_calibration
        from reward_model.training.calibration.calibrate import How
        from reward_model.training.calibration.checkpoint import calibrate_checkpoint
        from reward_model.training.calibration.labelled import labelled
        from reward_model.training.calibration.report import calibration_report

        rules = _rules(stop_cost or [], stop_marks, wave_cost or [], waves, early_accept or [])
        how = How(method, by_route, alpha, delta, least_accepted)
        fitted, scores = calibrate_checkpoint(checkpoint, replies, rules, how, url)
        save_calibration(checkpoint, fitted)
        if html is not None:
            calibration_report(fitted, labelled(replies, scores)).write(html)
    print(fitted.model_dump_json())


def _rules(
    stop_costs: list[float], stop_marks: str, wave_costs: list[float], waves: str, early_accept: list[float]
) -> list[StoppingRule]:
    """A rule for each value, and one of the first of each kind where several kinds are named."""
    from reward_model.stopping import ExpectedGain, StoppingRule, Waves

    try:
        kinds: dict[str, list[Any]] = {
            "gain": [ExpectedGain(cost=cost, marks=_numbers("--stop-marks", stop_marks)) for cost in stop_costs],
            "waves": [Waves(sizes=_numbers("--waves", waves), cost=cost) for cost in wave_costs],
            "accept_from": early_accept,
        }
        rules = [StoppingRule(**{kind: part}) for kind, parts in kinds.items() for part in parts]
        first = {kind: parts[0] for kind, parts in kinds.items() if parts}
        return [*rules, StoppingRule(**first)] if len(first) > 1 else rules
    except ValidationError as error:
        raise BadInput(f"that is no stopping rule: {first_fault(error).message}") from error


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Counts out of "32,64"."""
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise BadInput(f"{option} {text!r} is not a list of numbers such as 32,48,64,96")
    return tuple(sorted({int(part) for part in parts}))
