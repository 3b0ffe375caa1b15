"""Which rows a key may see."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, true

# None: every tenant.
Tenants = frozenset[str] | None


def seen_by(tenant: ColumnElement[Any], tenants: Tenants) -> ColumnElement[bool]:
    """The rows whose `tenant` is one of these."""
    return true() if tenants is None else tenant.in_(sorted(tenants))
