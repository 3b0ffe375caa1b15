"""Names of routes: any that the operator writes; three ship.

`default` is the route of whatever no rule and no class claims, and the class without stakes of every router.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

# A name is a TOML key, a label of metrics and a response header.
ROUTE_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,31}$"

Route = Annotated[str, StringConstraints(pattern=ROUTE_PATTERN)]

DEFAULT: Route = "default"
SHIPPED: tuple[Route, ...] = (DEFAULT, "billing", "fraud")
