"""Who asks: a tenant in a role. What a tenant sends never chooses either."""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

from service.errors import Forbidden

Role = Literal["client", "operator", "admin"]


class Identity(NamedTuple):
    """Who asks."""

    tenant: str
    role: Role

    @property
    def cache_salt(self) -> str:
        """Keeps the policy's prefix cache of one tenant from telling another what it was asked."""
        return hashlib.sha256(f"winnow:{self.tenant}".encode()).hexdigest()[:32]

    def require(self, *roles: Role) -> None:
        """Forbidden unless the role is one of these."""
        if self.role not in roles:
            raise Forbidden(f"this needs the role {' or '.join(roles)}; your key has the role {self.role}")
