"""Events that other systems are told of."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("next_at_ms", sa.BigInteger),
        sa.Column("last_error", sa.Text),
    )
    op.create_index("ix_deliveries_next_at_ms", "deliveries", ["next_at_ms"])


def downgrade() -> None:
    """Take it away."""
    op.drop_table("deliveries")
