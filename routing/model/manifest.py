"""What is known of a trained router: classes, thresholds, curves, what it was trained on and what it measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from routing.errors import BundleError
from routing.routes import DEFAULT, SHIPPED, Route
from routing.settings import Probability

MANIFEST = "manifest.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FittedCalibration(_Frozen):
    """What `probability` means, and the texts it was fitted on."""

    method: Literal["platt"] = "platt"
    event: Literal["high_stakes"] = "high_stakes"
    slopes: tuple[float, ...] = Field(
        min_length=1, max_length=2, description="Of the encoder's and the n-grams' log-odds."
    )
    intercept: float = Field(allow_inf_nan=False)
    windows: float = Field(0.0, allow_inf_nan=False, description="Of the logarithm of the number of windows.")
    labels: int = Field(ge=0, description="Texts it was fitted on, none of them trained on.")
    positives: int = Field(ge=0)


class FittedCascade(_Frozen):
    """Log-odds of the n-grams outside which they decide alone, and what their probability then is."""

    lower: float
    upper: float
    margin: float = Field(ge=0, description="Least distance between the logits of the two likeliest classes.")
    alone: FittedCalibration


class FittedStage(_Frozen):
    """How texts that are read in windows are judged."""

    calibration: FittedCalibration
    cascade: FittedCascade | None = None


class RouterManifest(_Frozen):
    """All that is known of a trained router; `files` maps each file to its SHA-256.

    Version 1 had no `classes`, `cascade` and `long`: its routers tell the routes that ship, run the encoder on every
    text, and judge a window as they judge a short text.
    """

    format_version: Literal[1, 2] = 2
    id: str
    created: str
    classes: tuple[Route, ...] = Field(SHIPPED, min_length=2, description="`default` and the routes told from it.")
    thresholds: dict[Route, Probability] = Field(description="Probability of high stakes from which a route is taken.")
    calibration: FittedCalibration
    cascade: FittedCascade | None = None
    long: FittedStage | None = None
    recipe: dict[str, Any]
    data: list[dict[str, Any]]
    figures: dict[str, Any]
    files: dict[str, str]

    @model_validator(mode="after")
    def _classes_and_thresholds_agree(self) -> Self:
        if self.classes[0] != DEFAULT or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes: expected {DEFAULT!r} and then other names, each once")
        if self.thresholds.keys() != set(self.classes[1:]):
            raise ValueError("thresholds: expected one for each class but the first")
        return self


def read_manifest(folder: Path) -> RouterManifest:
    """Read `manifest.json`; raises BundleError."""
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(f"{folder}: no router here ({MANIFEST} cannot be read)") from error
    try:
        return RouterManifest.model_validate_json(content)
    except ValidationError as error:
        raise BundleError(f"{folder / MANIFEST}: not a router's manifest ({error})") from error
