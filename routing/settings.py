"""The `[router]` table of winnow.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from routing.routes import Route
from routing.rules import Rule, need_names

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class RouterSettings(BaseModel):
    """What an operator may set of routing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path | None = Field(None, description="Folder of a trained router. Unset: the bundled one.")
    thresholds: dict[Route, Probability] = Field(
        {},
        description="Minimum probability of high stakes to take a route, by route name. Unset: the threshold chosen "
        "in training.",
    )
    rules: tuple[Rule, ...] = Field(
        (), description="Keywords and patterns; the first rule that matches decides the route."
    )

    background_tasks: bool = Field(
        True, description="Send titles, tags and follow-up questions that chat front-ends ask for to `default`."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        need_names(self.rules)
        return self
