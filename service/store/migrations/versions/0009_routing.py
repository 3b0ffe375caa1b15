"""Which rule routed an answer, and whether a part of its conversation was too long to be read."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("responses", sa.Column("route_rule", sa.String(200)))
    op.add_column("responses", sa.Column("route_truncated", sa.Boolean))


def downgrade() -> None:
    """Take them away."""
    op.drop_column("responses", "route_truncated")
    op.drop_column("responses", "route_rule")
