"""Settings of the store: what is kept of requests, and where."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


def state_folder() -> Path:
    """`WINNOW_STATE_DIR`, else `$XDG_STATE_HOME/winnow`, else `~/.local/state/winnow`."""
    if chosen := os.environ.get("WINNOW_STATE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "winnow"


_LEAST_SECRET = 16
_FERNET_BYTES = 32


class StoreSettings(BaseModel):
    """What is remembered of reranked requests, and where."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        "auto",
        description="`sqlite:///FILE`, or `postgresql://USER:PASSWORD@HOST/NAME` with libpq's parameters; `auto`: a "
        "file in the state folder; `none`: store nothing.",
    )
    prompts: bool = Field(True, description="Store prompts, redacted.")
    texts: bool = Field(True, description="Store the texts of candidates, redacted.")
    phone_regions: list[str] = Field(
        ["US", "GB", "DE", "FR", "ES", "IT", "NL"],
        description="Countries (ISO 3166) whose national telephone numbers are redacted; international ones always.",
    )
    redact_names: bool = Field(False, description="Redact names of people by Presidio; needs the extra `names`.")
    encryption_key: str = Field(
        "",
        description="Fernet key that encrypts held messages at rest. Several keys, separated by commas, allow "
        "rotation: the first encrypts, all decrypt. Empty: no encryption.",
    )
    delivered_minutes: float = Field(
        60, ge=0, description="How long a decided answer can be fetched again after its first delivery, in minutes."
    )
    webhook_url: str | None = Field(
        None,
        description="Receives an event when a review is opened or decided. Retried with exponential backoff until "
        "it returns a 2xx status.",
    )
    webhook_secret: str = Field("", description="Key of the webhook's HMAC signature; required with `webhook_url`.")
    days: float | None = Field(
        90, gt=0, description="Retention: delete answers older than this many days. `null`: never."
    )
    waiting: int = Field(
        10_000,
        ge=1,
        description="Maximum number of records waiting to be written. Beyond it, records are dropped and counted.",
    )

    @field_validator("encryption_key")
    @classmethod
    def _keys_fit(cls, value: str) -> str:
        for key in _keys(value):
            try:
                size = len(base64.urlsafe_b64decode(key))
            except (binascii.Error, ValueError):
                size = 0
            if size != _FERNET_BYTES:
                raise ValueError(
                    "each key must be 32 bytes in URL-safe base64; make one with "
                    '`python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"`'
                )
        return value

    @model_validator(mode="after")
    def _webhook_is_signed(self) -> StoreSettings:
        if self.webhook_url is not None and len(self.webhook_secret) < _LEAST_SECRET:
            raise ValueError(f"webhook_secret: at least {_LEAST_SECRET} characters, so that nobody guesses it")
        return self

    def address(self) -> str | None:
        """Where it is kept; None where nothing is."""
        return {"none": None, "auto": f"sqlite:///{state_folder() / 'winnow.db'}"}.get(self.url, self.url)

    def encryption_keys(self) -> tuple[str, ...]:
        """Keys of held messages, the one that encrypts first."""
        return tuple(_keys(self.encryption_key))


def _keys(value: str) -> list[str]:
    return [key.strip() for key in value.split(",") if key.strip()]
