"""The identity behind a request: a tenant and its role. Nothing in a request's body can change either."""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

from service.errors import Forbidden

Role = Literal["client", "operator", "admin"]

# Written in place of names: a key that sees the data of every tenant.
EVERY_TENANT = "*"


class Identity(NamedTuple):
    """Who asks. `name` is the person, if the key is one's own; `tenants` those whose data an operator may see."""

    tenant: str
    role: Role
    name: str | None = None
    tenants: tuple[str, ...] | None = None

    @property
    def actor(self) -> str:
        """Who holds tickets and stands in the log of actions."""
        return self.name or self.tenant

    @property
    def visible(self) -> frozenset[str] | None:
        """Tenants whose answers this identity may see; None: every tenant. One's own where the key names none."""
        if self.tenants is None:
            return frozenset((self.tenant,))
        return None if EVERY_TENANT in self.tenants else frozenset(self.tenants)

    @property
    def cache_salt(self) -> str:
        """Keeps the policy's prefix cache of one tenant from telling another what it was asked."""
        return hashlib.sha256(f"winnow:{self.tenant}".encode()).hexdigest()[:32]

    def require(self, *roles: Role) -> None:
        """Forbidden unless the role is one of these."""
        if self.role not in roles:
            raise Forbidden(f"this needs the role {' or '.join(roles)}; your key has the role {self.role}")

    def require_every_tenant(self) -> None:
        """Forbidden unless the key sees every tenant: what is asked for concerns them all."""
        if self.visible is not None:
            raise Forbidden(
                f"this needs a key that sees every tenant (`winnow key make ... --tenants '{EVERY_TENANT}'`)",
                code="tenant_not_visible",
            )
