"""Holding a row for a while: of several who want it one gets it, and it is free again if they forget it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, ColumnElement, or_

HOLD_MS = 15 * 60_000


def free_for(holder: Column[Any], until_ms: Column[Any], actor: str, now_ms: int) -> ColumnElement[bool]:
    """Nobody holds it, or `actor` does, or its time has run out."""
    return or_(holder.is_(None), holder == actor, until_ms < now_ms)


def held_by(holder: Column[Any], until_ms: Column[Any], actor: str, now_ms: int, hold_ms: int) -> dict[str, Any]:
    """Values to write when it is taken."""
    return {holder.name: actor, until_ms.name: now_ms + hold_ms}


def given_back(holder: Column[Any], until_ms: Column[Any]) -> dict[str, Any]:
    """Values to write when it is given back."""
    return {holder.name: None, until_ms.name: None}
