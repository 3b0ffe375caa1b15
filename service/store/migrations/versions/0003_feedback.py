"""What applications say of answers."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("response_id", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("thumb", sa.String(8)),
        sa.Column("rating", sa.Integer),
        sa.Column("preferred", sa.Integer),
        sa.Column("rejected", sa.Integer),
        sa.Column("comment", sa.Text),
    )
    op.create_index("ix_feedback_response_id", "feedback", ["response_id"])


def downgrade() -> None:
    """Take it away."""
    op.drop_table("feedback")
