"""Audits: what was drawn, and what people say of it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "audits",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("since_ms", sa.BigInteger, nullable=False),
        sa.Column("until_ms", sa.BigInteger, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("strata", sa.JSON, nullable=False),
        sa.Column("left_out", sa.JSON, nullable=False),
    )
    op.create_table(
        "audit_items",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("audit_id", sa.String(64), sa.ForeignKey("audits.id", ondelete="CASCADE"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("response_id", sa.String(64), sa.ForeignKey("responses.id", ondelete="CASCADE"), nullable=False),
        sa.Column("stratum", sa.String(64), nullable=False),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("winner_left", sa.Boolean, nullable=False),
        sa.Column("other", sa.Integer),
        sa.Column("greedy", sa.Text),
        sa.Column("labels_wanted", sa.Integer, nullable=False),
        sa.Column("held_by", sa.String(64)),
        sa.Column("held_until_ms", sa.BigInteger),
    )
    op.create_index("ix_audit_items_response_id", "audit_items", ["response_id"])
    op.create_index("ix_audit_items_audit_id_position", "audit_items", ["audit_id", "position"])
    op.create_table(
        "audit_labels",
        sa.Column("item_id", sa.String(64), sa.ForeignKey("audit_items.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("annotator", sa.String(64), primary_key=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("choice", sa.String(8), nullable=False),
        sa.Column("left_acceptable", sa.Boolean),
        sa.Column("right_acceptable", sa.Boolean),
        sa.Column("dimensions", sa.JSON, nullable=False),
        sa.Column("note", sa.Text),
    )


def downgrade() -> None:
    """Take them away."""
    for table in ("audit_labels", "audit_items", "audits"):
        op.drop_table(table)
