"""What is remembered of requests, and where."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator


def state_folder() -> Path:
    """`WINNOW_STATE_DIR`, else `$XDG_STATE_HOME/winnow`, else `~/.local/state/winnow`."""
    if chosen := os.environ.get("WINNOW_STATE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "winnow"


_LEAST_SECRET = 16


class StoreSettings(BaseModel):
    """What is remembered of reranked requests, and where."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        "auto",
        description="`sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`; `auto`: a file in the state folder; "
        "`none`: nothing is kept.",
    )
    prompts: bool = Field(True, description="Keep what was asked, redacted.")
    texts: bool = Field(True, description="Keep candidates' texts, redacted.")
    webhook_url: str | None = Field(None, description="Told of reviews that are opened and decided.")
    webhook_secret: str = Field("", description="Signs what it is told; wanted with `webhook_url`.")
    days: float | None = Field(90, gt=0, description="Delete answers that are older; `null`: never.")
    waiting: int = Field(10_000, ge=1, description="Answers that may wait to be written; more are dropped and counted.")

    @model_validator(mode="after")
    def _webhook_is_signed(self) -> StoreSettings:
        if self.webhook_url is not None and len(self.webhook_secret) < _LEAST_SECRET:
            raise ValueError(f"webhook_secret: at least {_LEAST_SECRET} characters, so that nobody guesses it")
        return self

    def address(self) -> str | None:
        """Where it is kept; None where nothing is."""
        return {"none": None, "auto": f"sqlite:///{state_folder() / 'winnow.db'}"}.get(self.url, self.url)
