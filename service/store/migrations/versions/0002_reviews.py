"""Review tickets, and what operators did."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_ON_SQLITE = """
create trigger actions_no_{what} before {what} on actions
begin select raise(abort, 'what operators did is not changed'); end
"""
_ON_POSTGRES = (
    "create function actions_are_kept() returns trigger language plpgsql as "
    "$$ begin raise exception 'what operators did is not changed'; end $$",
    "create trigger actions_are_kept before update or delete or truncate on actions "
    "for each statement execute function actions_are_kept()",
)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "reviews",
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("response_id", sa.String(64), nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("route", sa.String(32), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("chance", sa.Float, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("claimed_by", sa.String(64)),
        sa.Column("claimed_until_ms", sa.BigInteger),
        sa.Column("decided_by", sa.String(64)),
        sa.Column("decided_at_ms", sa.BigInteger),
        sa.Column("verdict", sa.String(16)),
        sa.Column("chosen", sa.Integer),
        sa.Column("text", sa.Text),
        sa.Column("reasons", sa.JSON),
        sa.Column("note", sa.Text),
        sa.ForeignKeyConstraint(["response_id"], ["responses.id"], name="fk_reviews_response_id", ondelete="CASCADE"),
    )
    op.create_index("ix_reviews_status_at_ms", "reviews", ["status", "at_ms"])
    op.create_index("ix_reviews_response_id", "reviews", ["response_id"])
    op.create_table(
        "actions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(80), nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
    )
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in [_ON_SQLITE.format(what=w) for w in ("update", "delete")] if on_sqlite else _ON_POSTGRES:
        op.execute(statement)


def downgrade() -> None:
    """Take them away."""
    op.drop_table("actions")
    op.drop_table("reviews")
