"""From a raw score to P(a reviewer would send this reply to this prompt): the content of `calibration.json`.

Pure: fitting needs scikit-learn and lives with the trainer; applying needs numpy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reward_model.errors import CheckpointError
from reward_model.stopping import ALL_SCORED, CandidateScores, PartialScores

FILE = "calibration.json"


class Selection(BaseModel):
    """The policy under which the winners were chosen whose probability this is."""

    model_config = ConfigDict(extra="forbid")

    n: int = Field(gt=0)
    stopping_rule: str = ALL_SCORED
    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    policy: str | None = None
    policy_revision: str | None = None
    instructions: str | None = Field(None, description="Digest of the system text (`instructions_digest`).")


def instructions_digest(messages: Sequence[Mapping[str, Any]]) -> str:
    """16 hex digits that name the system text of a conversation; empty if it has none."""
    texts = [message.get("content") or "" for message in messages if message["role"] in ("system", "developer")]
    parts = [text if isinstance(text, str) else "\n".join(part["text"] for part in text) for text in texts]
    return hashlib.sha256("\n\n".join(parts).encode("utf-8", "replace")).hexdigest()[:16] if any(parts) else ""


class Curve(BaseModel):
    """A map from score to probability.

    `platt`: p = 1 / (1 + exp(-(slope * score + intercept))) (Platt, 1999).
    `isotonic`: piecewise linear through (x, y), constant outside (Zadrozny and Elkan, 2002).
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    method: Literal["platt", "isotonic"]
    slope: float | None = Field(None, gt=0, description="Platt only; positive, or a higher score would mean worse.")
    intercept: float | None = None
    x: list[float] | None = None
    y: list[float] | None = None
    labels: int = Field(gt=0)
    positives: int = Field(ge=0)
    ece: float | None = None
    ece_ci: tuple[float, float] | None = None
    brier: float | None = None
    brier_ci: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _has_its_parameters(self) -> Curve:
        if self.method == "platt" and (self.slope is None or self.intercept is None):
            raise ValueError("a platt calibrator needs slope and intercept")
        if self.method == "isotonic" and (not self.x or not self.y or len(self.x) != len(self.y)):
            raise ValueError("an isotonic calibrator needs x and y of the same length")
        if self.method == "isotonic" and not (_rises(self.x) and _rises([0, *(self.y or []), 1])):
            raise ValueError("an isotonic calibrator needs x that rises and y that rises within 0 and 1")
        if self.positives > self.labels:
            raise ValueError(f"{self.positives} positives are more than {self.labels} labels")
        return self

    def on(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Probabilities, of the same shape as `scores`."""
        values = np.asarray(scores, dtype=np.float64)
        if self.method == "platt":
            assert self.slope is not None
            assert self.intercept is not None
            # exp of a negative number only, so that no score overflows.
            z = self.slope * values + self.intercept
            small = np.exp(-np.abs(z))
            return np.where(z >= 0, 1 / (1 + small), small / (1 + small))
        assert self.x is not None
        assert self.y is not None
        return np.asarray(np.interp(values, self.x, self.y), dtype=np.float64)


class AcceptThreshold(BaseModel):
    """The lowest probability at which a bucket's winners may be accepted; None where the labels support none."""

    model_config = ConfigDict(extra="forbid")

    probability: float | None
    score: float | None
    accepted: int = Field(description="Labelled winners at or above it.")
    unacceptable: int
    labels: int = Field(description="Labelled winners, one a group.")
    needed: int | None = Field(None, description="Accepted labels, none of them unacceptable, that carry a threshold.")
    more: int | None = Field(None, description="At least so many more accepted labels, all acceptable, carry one.")
    why: str = Field("", description="What is missing, where there is no threshold.")


class RiskControl(BaseModel):
    """Thresholds under which the share of unacceptable answers among accepted ones is at most `alpha`.

    In all buckets together, with confidence 1 - `delta` (Learn-then-Test; Angelopoulos et al., 2021).
    """

    model_config = ConfigDict(extra="forbid")

    alpha: float = Field(gt=0, lt=1)
    delta: float = Field(gt=0, lt=1)
    by_route: dict[str, AcceptThreshold]


class Calibration(Curve):
    """A fitted map from score to probability, with what it was fitted on; a route may have a curve of its own."""

    format_version: Literal[1] = 1
    orm: str
    event: Literal["acceptable", "pair_winner"]
    date: date
    selection: Selection
    fitted_on: dict[str, Any]
    by_route: dict[str, Curve] = Field(default_factory=dict)
    risk_control: RiskControl | None = None
    partial_scores: PartialScores | None = None
    candidate_scores: CandidateScores | None = None
    by_stopping_rule: dict[str, Calibration] = Field(
        default_factory=dict, description="Calibrators fitted on the winners under another stopping rule."
    )

    @model_validator(mode="after")
    def _promises_only_what_was_judged(self) -> Calibration:
        promised = self.risk_control and any(t.probability is not None for t in self.risk_control.by_route.values())
        if promised and self.event != "acceptable":
            raise ValueError(f"a calibrator of {self.event} says nothing of acceptable answers: no accept threshold")
        return self

    @model_validator(mode="after")
    def _each_rule_has_its_own(self) -> Calibration:
        wrong = [rule for rule, own in self.by_stopping_rule.items() if own.selection.stopping_rule != rule]
        if wrong or any(own.orm != self.orm for own in self.by_stopping_rule.values()):
            raise ValueError(f"the calibrators by stopping rule are not of the rules that they stand under: {wrong}")
        return self

    def under(self, stopping_rule: str | None) -> Calibration:
        """The calibrator for winners under a stopping rule: its own, or this one, which does not hold for it."""
        return self.by_stopping_rule.get(stopping_rule or "", self)

    @property
    def curve(self) -> Curve:
        """The shared curve by itself."""
        return Curve(**self.model_dump(include=set(Curve.model_fields)))

    @property
    def id(self) -> str:
        """Names the calibrator in every answer that shows its probabilities."""
        return self._named(self.method)

    def _named(self, *parts: str) -> str:
        rule = self.selection.stopping_rule
        return "/".join((self.orm, *parts, *(() if rule == ALL_SCORED else (rule,))))

    def probability(self, scores: ArrayLike, route: str | None = None) -> NDArray[np.float64]:
        """Probabilities of the event, of the shape of `scores`, by the route's own curve or else the shared one."""
        return self.by_route.get(route or "", self).on(scores)

    def _risk(self, route: str | None) -> dict[str, Any] | None:
        """The route's accept threshold with its promise, or why there is none."""
        if self.risk_control is None or route is None:
            return None
        promise = {"alpha": self.risk_control.alpha, "delta": self.risk_control.delta}
        if (found := self.risk_control.by_route.get(route)) is None:
            return {**promise, "threshold": None, "labels": 0, "why": f"no labelled winner took the route {route}"}
        missing = {} if found.probability is not None else {"why": found.why, "more": found.more}
        return {**promise, "threshold": found.probability, "labels": found.labels, **missing}

    def public(self, route: str | None = None) -> dict[str, Any]:
        """What an answer says of its probabilities; where the route has a curve of its own, its name and figures."""
        curve = self.by_route.get(route or "", self)
        shown = {
            "id": self.id,
            **curve.model_dump(mode="json", include={"method", "labels", "ece", "brier"}),
            **self.model_dump(mode="json", include={"event", "date"}),
            "selection": self.selection.model_dump(exclude_none=True),
        }
        if (risk := self._risk(route)) is not None:
            shown["risk"] = risk
        return shown if curve is self else shown | {"id": self._named(curve.method, str(route)), "route": route}


# Which route an answer to a bucket's prompt takes, where their names differ.
_ROUTE_OF = {"refund": "billing"}


def route_of(bucket: str) -> str:
    """The gateway's route for a bucket of the labels: refunds are billing."""
    return _ROUTE_OF.get(bucket, bucket)


def _rises(values: list[float] | None) -> bool:
    return all(low <= high for low, high in pairwise(values or []))


def load_calibration(folder: Path, orm: str) -> Calibration | None:
    """The checkpoint's calibrator, or None when it has none.

    Raises CheckpointError when the file is unreadable or belongs to another checkpoint.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        calibration = Calibration.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise CheckpointError(f"{path} is not a calibration: {error}") from error
    if calibration.orm != orm:
        raise CheckpointError(f"{path} calibrates {calibration.orm}, not {orm}; calibrators cannot be mixed")
    return calibration


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Write `calibration.json` in one step, so that a server never reads half of it."""
    scratch = folder / f".{FILE}.writing"
    scratch.write_text(calibration.model_dump_json(indent=1) + "\n")
    scratch.replace(folder / FILE)
