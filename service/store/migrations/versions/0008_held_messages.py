"""Messages of held answers, whole; the user that feedback is about; users that were forgotten."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the tables and the column."""
    op.create_table(
        "held_messages",
        sa.Column("response_id", sa.String(64), sa.ForeignKey("responses.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("index", sa.Integer, primary_key=True),
        sa.Column("message", sa.LargeBinary, nullable=False),
        sa.Column("delivered_at_ms", sa.BigInteger),
    )
    op.create_index("ix_held_messages_delivered_at_ms", "held_messages", ["delivered_at_ms"])
    op.add_column("feedback", sa.Column("user", sa.String(256)))
    op.create_index("ix_feedback_tenant_user", "feedback", ["tenant", "user"])
    op.create_table(
        "forgotten",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("user_digest", sa.String(64), nullable=False),
    )
    op.create_index("ix_forgotten_at_ms", "forgotten", ["at_ms"])


def downgrade() -> None:
    """Take them away."""
    op.drop_table("forgotten")
    op.drop_index("ix_feedback_tenant_user", "feedback")
    op.drop_column("feedback", "user")
    op.drop_table("held_messages")
