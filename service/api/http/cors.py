"""CORS: which origins may call the API from a browser."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

_LIMITED = ("requests", "tokens", "candidates")
EXPOSED = (
    "retry-after",
    "server-timing",
    "x-request-id",
    *(f"x-winnow-{name}" for name in ("decision", "ignored", "orm", "probability", "route")),
    *(f"x-ratelimit-{figure}-{kind}" for figure in ("limit", "remaining", "reset") for kind in _LIMITED),
)


def allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    """Answer preflights of `origins`, which come without a key, and let their pages read our headers."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
            max_age=3600,
        )
