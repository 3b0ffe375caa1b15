"""Every setting of the scorer, once: from the command line or WINNOW_SCORER_* variables."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ScorerSettings(BaseSettings):
    """Settings of the scorer. In the environment: WINNOW_SCORER_PORT and so on."""

    model_config = SettingsConfigDict(env_prefix="WINNOW_SCORER_", extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8002, ge=0, le=65535, description="Port to listen on.")
    model: str = Field("champion", description="Checkpoint: a name, name@version, alias, folder, or a hub id.")
    registry: Path | None = Field(None, description="Folder of checkpoints beside the bundled ones.")
    device: str = Field("auto", description="`auto` (CUDA where found), `cpu`, `cuda`, `cuda:1`, ...")
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="`auto`: bf16 where the device computes in it, else fp32."
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of a forward pass; all cores where not set.")
    cores: list[int] | None = Field(
        None, description="CPU cores to keep to, such as `[2, 3]`, away from the policy's; any where not set."
    )
    max_batch_tokens: int | None = Field(
        None, ge=1, description="Tokens of one forward pass; 2,048 on a CPU and 16,384 elsewhere where not set."
    )
    max_waiting: int = Field(
        1_024, ge=1, description="Completions taken in and not yet answered; more get a 503 and retry-after."
    )
    max_completions: int = Field(64, ge=1, description="Completions of one request.")
    max_body_bytes: int = Field(4_000_000, ge=1_000, description="Largest request body.")
    prompt_cache: int = Field(1_024, ge=1, description="Tokenised prompts kept.")
    prefix_cache_mb: int = Field(
        512, ge=0, description="Memory for keys and values of prompts and growing completions; 0: every text is whole."
    )
    api_key: str | None = Field(None, description="Bearer token that callers must send, if any.")
