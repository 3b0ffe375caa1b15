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
    model: str = Field("champion", description="Checkpoint: a name, name@version, alias, folder, or hub id.")
    registry: Path | None = Field(None, description="Folder of checkpoints, in addition to the bundled ones.")
    device: str = Field("auto", description="`auto` (CUDA if available), `cpu`, `cuda`, `cuda:1`, ...")
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="Precision of a forward pass. `auto`: bf16 if the device computes in it, else fp32."
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of a forward pass. Unset: all cores.")
    cores: list[int] | None = Field(
        None, description="CPU cores to run on, such as `[2, 3]`, to stay off the policy's. Unset: any."
    )
    max_batch_tokens: int | None = Field(
        None, ge=1, description="Maximum number of tokens of a forward pass. Unset: 2,048 on a CPU, 16,384 elsewhere."
    )
    max_sequence_tokens: int = Field(
        4_096,
        ge=16,
        description="Maximum number of tokens of a prompt with its reply, for models of others; their own limit holds "
        "too. Checkpoints of `winnow train` have the limits of their training.",
    )
    max_waiting: int = Field(
        1_024,
        ge=1,
        description="Maximum number of completions accepted and not yet answered. Beyond it, requests get a 503 "
        "with `retry-after`.",
    )
    restart_seconds: float = Field(
        60,
        ge=0,
        description="After test passes have failed for so many seconds, `/livez` asks for a restart: a CUDA error of a "
        "broken context does not pass by itself.",
    )
    max_completions: int = Field(64, ge=1, description="Maximum number of completions of one request.")
    max_body_bytes: int = Field(4_000_000, ge=1_000, description="Maximum size of a request body, in bytes.")
    prompt_cache: int = Field(1_024, ge=1, description="Number of tokenised prompts kept in memory.")
    prefix_cache_mb: int | None = Field(
        None,
        ge=0,
        description="KV-cache memory for prompts and completions, in MB. 0 disables caching. Unset: a tenth of "
        "an accelerator's memory, at most half of what the model leaves free; 512 on a CPU.",
    )
    api_key: str | None = Field(None, description="Bearer token that callers must send, if any.")
